"""Settings of the whole suite."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread_per_worker() -> None:
    # Toy tensors are slower on many threads, and pytest-xdist already fills the cores.
    torch.set_num_threads(1)
