"""Every error this project raises on purpose.

All derive from `AdError`, and each also derives from the built-in a caller would
expect, so ``except ValueError`` keeps working. A message says what is wrong, what
was given, what is allowed and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "AdError",
    "DataError",
    "DownloadError",
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


class AdError(Exception):
    """Base of all errors raised on purpose."""

    def __str__(self) -> str:
        # `LookupError` children would otherwise quote the text as `KeyError` does.
        return str(self.args[0]) if self.args else ""


class SettingError(AdError, ValueError):
    """A setting of a run or an option of a model has a value that cannot work."""


class NotFittedError(AdError, RuntimeError):
    """Scores were asked for before the detector had learnt anything."""


class UnknownNameError(AdError, LookupError):
    """No installed distribution provides the model or data set that was named."""


class PluginError(AdError, ImportError):
    """An installed distribution promises something it cannot deliver."""


class DataError(AdError, ValueError):
    """A data set's folder or its pictures are not what they should be."""


class PictureError(DataError):
    """One picture cannot be read; the message names its path."""


class WeightsError(AdError, FileNotFoundError):
    """Pretrained weights cannot be had from any of the allowed places."""


class MissingExtraError(AdError, ImportError):
    """A feature needs a package that is an optional extra and is not installed."""


class ModelFileError(AdError, ValueError):
    """A saved model is incomplete, was changed, or is of a format not known here."""


class LearningError(AdError, ArithmeticError):
    """Learning went astray: a loss is not a finite number."""


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


class PathError(AdError, FileNotFoundError):
    """A path that was given is empty."""


class OutputError(AdError, OSError):
    """A result cannot be written where it was asked for."""


def how_to_install(package: str, extra: str = "") -> str:
    """What to type for one of this project's packages, which are on no index."""
    path = f"./packages/{package}" if not extra else f"'./packages/{package}[{extra}]'"
    return f"in a clone of this project: pip install {path}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Words that point from a mistyped name to the closest known one.

    Returns:
        ``" Did you mean `patchcore`?"``, or an empty text if nothing is close.
    """
    close = get_close_matches(name, list(known), n=1)
    return f" Did you mean `{close[0]}`?" if close else ""


def listed(names: Iterable[str]) -> str:
    """Names in backticks, sorted and separated by commas; ``none`` for no names."""
    return ", ".join(f"`{name}`" for name in sorted(names)) or "none"
