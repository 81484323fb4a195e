"""A device without values, torch's "meta", in the place of a GPU: what makes host and device wait for each other fails.

A GPU computes behind the host's back. The host waits for it where it asks for a value or a number of elements that the
values decide, and where it copies from or to memory that is not pinned. On this device the first two are errors of
torch, and `without_copies` makes the third one too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FAR = torch.device("meta")
_FROM_LISTS = (torch.tensor, torch.as_tensor, Tensor.new_tensor)


class CopyError(AssertionError):
    """Something went from one device to the other."""


@contextmanager
def without_copies(but_first: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Raises CopyError where a tensor or a list goes to the other device. Single numbers may: kernels take them along.

    `but_first` is called before, for what is made once and stays there. No autocast knows this device: it is left out.
    """
    with patch.object(torch, "autocast", lambda *args, **kwargs: nullcontext()):
        but_first()
        with _NoLists(), _NoCopies():
            yield


class _NoLists(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        came = func(*args, **(kwargs or {}))
        if func in _FROM_LISTS and came.device == FAR:
            raise CopyError(f"a tensor is made of {args} on the device; make it once, before the steps")
        return came


class _NoCopies(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        came = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, came))
        devices = {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()}
        if len(devices) > 1:
            raise CopyError(f"{func} has tensors on {' and '.join(sorted(devices))}")
        return came
