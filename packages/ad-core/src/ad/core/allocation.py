"""Keeps the building of a saved model from taking memory that its tensors do not need.

A model is built from a configuration before its tensors can be compared, and a configuration of a
few bytes can ask for terabytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ad.core.errors import AdError, ModelFileError

_ROOM = 2**30
"""Bytes that any one tensor may take: what a trainer makes beside the detector is not saved."""

_MANY = 4
"""How many of the largest tensors may be made in all; some are made in order to be replaced."""

_MAKERS = frozenset(
    {
        *(torch.empty, torch.zeros, torch.ones, torch.full, torch.eye, torch.arange),
        *(torch.linspace, torch.rand, torch.randn, torch.randint, torch.randperm),
    }
)
"""What makes a tensor from numbers alone, and so what a configuration can make large."""


@contextlib.contextmanager
def built_within(tensors: Mapping[str, Tensor], folder: Path) -> Iterator[None]:
    """Let a model be built in here, and refuse what takes far more memory than its tensors.

    Args:
        tensors: The saved ones; any one that is made may take as much as all of these, or 1 GiB,
            and all together four times that.
        folder: Of the saved model, for the error.

    Raises:
        ModelFileError: If what is to be made is larger, or the model cannot be built.
    """
    saved = sum(tensor.nbytes for tensor in tensors.values())
    try:
        with _Limit(max(saved, _ROOM), folder):
            yield
    except (AdError, torch.OutOfMemoryError):  # the latter is the device's, and full of others
        raise
    except (RuntimeError, MemoryError, TypeError, OverflowError) as error:
        msg = (
            f"The saved model `{folder}` cannot be built from its `config.json` "
            f"({type(error).__name__}: {error}). It belongs to another version, or was changed; "
            "take it from the original again."
        )
        raise ModelFileError(msg) from error


@final
class _Limit(TorchFunctionMode):
    """Looks at each tensor's size before it is made."""

    def __init__(self, largest: int, folder: Path) -> None:
        super().__init__()
        self.largest = largest
        self.made = 0  # bytes so far
        self.folder = folder

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        kwargs = kwargs or {}
        if func in _MAKERS:
            self._check(_planned_bytes(func, args, kwargs))
        return func(*args, **kwargs)

    def _check(self, planned: int) -> None:
        self.made += planned
        for size, limit, what in (
            (planned, self.largest, "a tensor"),
            (self.made, _MANY * self.largest, "tensors"),
        ):
            if size > limit:
                msg = (
                    f"The `config.json` of the saved model `{self.folder}` asks for {what} of "
                    f"{size:,} bytes; {limit:,} are the most that its saved tensors explain. It "
                    "was changed, or belongs to another model; take it from the original again."
                )
                raise ModelFileError(msg)


def _planned_bytes(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> int:
    """Size of what a call would make; 0 where it takes no memory of its own."""
    if str(kwargs.get("device")) == "meta" or kwargs.get("out") is not None:
        return 0
    kwargs = {name: value for name, value in kwargs.items() if name not in _OF_MEMORY}
    planned: Tensor = func(*args, **kwargs, device="meta")  # sizes, and no memory
    return planned.nbytes


_OF_MEMORY = ("device", "generator", "pin_memory", "requires_grad")
"""Arguments that say where and how and not how large; a description may refuse them."""
