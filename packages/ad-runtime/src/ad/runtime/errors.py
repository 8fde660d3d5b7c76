"""Every error this project raises on purpose, but for those of training.

All derive from `AdError`, and each also derives from the built-in a caller would expect, so
``except ValueError`` keeps working. A message says what is wrong, what was given, what is allowed
and what to do. `ad.core.errors` has these and its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec

SHOWN = 100
"""Characters of a value in an error."""


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


class DataError(AdError, ValueError):
    """A data set's folder or its pictures are not what they should be."""


class PictureError(DataError):
    """One picture cannot be read; the message names its path."""


class MissingExtraError(AdError, ImportError):
    """A feature needs a package that is an optional extra and is not installed."""


class ModelFileError(AdError, ValueError):
    """A saved model is incomplete, was changed, or is of a format not known here."""


class PathError(AdError, FileNotFoundError):
    """A path that was given is empty."""


class OutputError(AdError, OSError):
    """A result cannot be written where it was asked for."""


class WorkerError(AdError, RuntimeError):
    """A process that was started to score pictures ended before it could."""


def how_to_install(package: str, extra: str = "") -> str:
    """What to type for one of this project's packages, which are on no index."""
    path = f"./packages/{package}" if not extra else f"'./packages/{package}[{extra}]'"
    return f"in a clone of this project: pip install {path}"


def calibrate_command() -> str:
    """What to type here to set a threshold: `ad-runtime` sets it where there is no `ad`."""
    return "ad calibrate" if find_spec("ad.core") is not None else "ad-runtime calibrate"


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


def counted(number: int, one: str, more: str) -> str:
    """A number with the words for one or for more: ``1 picture is``, ``3 pictures are``."""
    return f"{number} {one if number == 1 else more}"


def shown(value: object) -> str:
    """A value for an error, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of too many digits, or nested too deep
        return f"a {type(value).__name__} too long to be shown"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
