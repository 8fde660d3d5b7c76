"""Every error this project raises on purpose.

All derive from `AdError`, and each also derives from the built-in a caller would
expect, so ``except ValueError`` keeps working. A message says what is wrong, what
was given, what is allowed and what to do.
"""

from __future__ import annotations

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
