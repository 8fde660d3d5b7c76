"""Exported detectors at work, without torch: pictures in, scores, verdicts and heat maps out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ad.runtime.calibration import Calibration as Calibration
    from ad.runtime.findings import Finding as Finding
    from ad.runtime.runtime import Runtime as Runtime
    from ad.runtime.runtime import load as load

_HOMES = {
    "Calibration": "ad.runtime.calibration",
    "Finding": "ad.runtime.findings",
    "Runtime": "ad.runtime.runtime",
    "load": "ad.runtime.runtime",
}

__all__ = ["Calibration", "Finding", "Runtime", "load"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # Imported when they are used: a command that says what is wrong needs neither NumPy nor Pillow.
    if name not in _HOMES:
        msg = f"module `{__name__}` has no attribute `{name}`"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
