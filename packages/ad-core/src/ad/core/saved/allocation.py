"""Keeps the building of a model from taking memory that it must not have.

A saved model is built from a configuration before its tensors can be compared, and a configuration
of a few bytes can ask for terabytes. Options that are each within their limits can ask together for
more than a machine has, and its system would end the process without a word.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ad.core.errors import AdError, ModelFileError, SettingError

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
    largest = max(saved, _ROOM)

    def refused(what: str, size: int, limit: int) -> ModelFileError:
        msg = (
            f"The `config.json` of the saved model `{folder}` asks for {what} of {size:,} bytes; "
            f"{limit:,} are the most that its saved tensors explain. It was changed, or belongs to "
            "another model; take it from the original again."
        )
        return ModelFileError(msg)

    try:
        with _Limit(largest, _MANY * largest, refused):
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


@contextlib.contextmanager
def fits_in_memory(model: str) -> Iterator[None]:
    """Let a model be built in here to learn, and refuse what this machine has no memory for.

    Args:
        model: Its name, for the error.

    Raises:
        SettingError: If its tensors would take more than all memory there is.
    """
    there = _physical_memory()

    def refused(what: str, size: int, limit: int) -> SettingError:
        msg = (
            f"`{model}` with these options and `img_size` asks for {what} of {size:,} bytes; this "
            f"machine has {limit:,}. Make the pictures or the model smaller; `ad show {model}` "
            "lists its options."
        )
        return SettingError(msg)

    with contextlib.nullcontext() if there is None else _Limit(there, there, refused):
        yield


def _physical_memory() -> int | None:
    """Bytes of memory of this machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows, or a system that does not know
        return None


@final
class _Limit(TorchFunctionMode):
    """Looks at each tensor's size before it is made.

    Args:
        largest: Bytes of any one.
        most: Bytes of all together.
        refused: From what there is too much of, its bytes and those allowed to the error.
    """

    def __init__(
        self, largest: int, most: int, refused: Callable[[str, int, int], AdError]
    ) -> None:
        super().__init__()
        self.largest = largest
        self.most = most
        self.refused = refused
        self.made = 0  # bytes so far

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
            (self.made, self.most, "tensors"),
        ):
            if size > limit:
                raise self.refused(what, size, limit)


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
