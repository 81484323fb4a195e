"""EMA: a slow copy of the weights that follows the trained ones; it is what is validated and what ships.

    w' <- decay * w' + (1 - decay) * w      after every step; w' is w itself after the first

Of all parameters and BN statistics of the method, so that whatever it deploys (the student, its neck, a projector) is
made of averages. Other buffers are the method's own and do not ship, such as the banks of CRD: they are left alone.

The formula is torch's (`swa_utils.get_ema_multi_avg_fn`). Its `AveragedModel` would copy the whole method, with the
teacher that the method borrows, and average integers too.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """The averaged weights of `model`, which has reached its device already.

    Args:
        model: is trained, and holds the averages where it is asked to.
        decay: in (0, 1), about 1 - 1 / (steps that count); None averages nothing, and everything here does nothing.
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self.tensors: dict[str, Tensor] = {}
        """By their names in the model; none before the first step."""
        self._trained = {} if decay is None else _averaged(model)
        self._move = get_ema_multi_avg_fn(decay or 0.0)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(self) -> None:
        """Follow the weights, after a step."""
        if self.tensors:
            self._move(list(self.tensors.values()), list(self._trained.values()), None)
        else:
            self.tensors = {name: tensor.detach().clone() for name, tensor in self._trained.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from the averages of an earlier part of the training, if it left any."""
        if tensors:
            # In the order of the weights and in memory as they lie: a step walks both side by side.
            self.tensors = {name: torch.empty_like(w).copy_(tensors[name]) for name, w in self._trained.items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While it lasts, the model holds the averages; the trained weights come back to the bit."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Trained weights here, averages in the model; and back."""
        for name, average in self.tensors.items():
            trained = self._trained[name]
            kept = trained.clone()
            trained.copy_(average)
            average.copy_(kept)


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = dict(model.named_parameters())
    for place, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            found |= {f"{place}.running_mean": module.running_mean, f"{place}.running_var": module.running_var}
    return found
