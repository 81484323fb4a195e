"""Settings of the whole suite."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread_per_worker() -> None:
    # Toy tensors are slower on many threads, and pytest-xdist already fills the cores.
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # xdist looks for the groups in this hook too
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, and let one worker have all slow tests of a file, which share a project.

    Those that start Ray take turns: a second one would wait for the cores that the first one holds.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        if item.get_closest_marker("slow") is not None:
            group = "ray" if item.path.stem in ("test_table", "test_cluster") else item.path.stem
            item.add_marker(pytest.mark.xdist_group(group))
