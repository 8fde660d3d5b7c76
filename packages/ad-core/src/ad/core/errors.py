"""Every error this project raises on purpose.

All derive from `AdError`, and each also derives from the built-in a caller would
expect, so ``except ValueError`` keeps working. A message says what is wrong, what
was given, what is allowed and what to do.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

from ad.runtime.errors import (
    AdError,
    DataError,
    MissingExtraError,
    ModelFileError,
    NotFittedError,
    OutputError,
    PathError,
    PictureError,
    SettingError,
    UnknownNameError,
)
from ad.runtime.errors import how_to_install as how_to_install
from ad.runtime.errors import listed as listed
from ad.runtime.errors import nearest as nearest

__all__ = [
    "AdError",
    "DataError",
    "DownloadError",
    "ExportError",
    "Interrupted",
    "LearningError",
    "MissingExtraError",
    "ModelFileError",
    "NotFittedError",
    "OutputError",
    "PathError",
    "PictureError",
    "PluginError",
    "SettingError",
    "UnknownNameError",
    "WeightsError",
    "how_to_install",
]


class PluginError(AdError, ImportError):
    """An installed distribution promises something it cannot deliver."""


class WeightsError(AdError, FileNotFoundError):
    """Pretrained weights cannot be had from any of the allowed places."""


class LearningError(AdError, ArithmeticError):
    """Learning went astray: a loss is not a finite number."""


class ExportError(AdError, RuntimeError):
    """A detector cannot be written in another format, or is not the same one there."""


class Interrupted(AdError):
    """A signal ended a run that can be resumed.

    Attributes:
        status: Exit status of the command, 128 and the signal's number.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class DownloadError(AdError, OSError):
    """A file cannot be fetched, or is not the one that was promised."""


def raised_at(error: BaseException, module: str) -> str:
    """Say where in a package's own code an error arose, however deep below it.

    Args:
        error: What was raised.
        module: Name of a module of the package.

    Returns:
        Such as `` (`spread.py`, line 23, in `forward`)``; empty if it passed no code of it.
    """
    return _place(reversed([*traceback.walk_tb(error.__traceback__)]), module)


def called_at(module: str, below: str) -> str:
    """Say which line of a package's own code is at work; see `raised_at`.

    Args:
        module: Name of a module of the package.
        below: Name of the module that asks, which called that code: what called it does not count.
    """

    def asks(one: tuple[FrameType, int]) -> bool:
        return one[0].f_globals.get("__name__") in (below, __name__)

    stack = itertools.dropwhile(asks, traceback.walk_stack(None))
    return _place(itertools.takewhile(lambda one: not asks(one), stack), module)


def _place(innermost_first: Iterable[tuple[FrameType, int]], module: str) -> str:
    parts = module.split(".")
    package = ".".join(parts[: 2 if parts[0] == "ad" else 1])  # `ad` is shared by many
    for frame, line in innermost_first:
        if f"{frame.f_globals.get('__name__')}.".startswith(f"{package}."):
            code = frame.f_code
            within = "" if code.co_name == "<module>" else f", in `{code.co_name}`"
            return f" (`{Path(code.co_filename).name}`, line {line}{within})"
    return ""
