"""A saved detector at work.

| module     | holds                                                    |
|------------|----------------------------------------------------------|
| `config`   | what a saved model says of itself: ``config.json``       |
| `loading`  | from its folder to a detector at work                    |
| `sources`  | what a caller's paths, folders and arrays stand for      |
| `compiled` | a detector as `torch.compile` translates it                 |
| `detector` | pictures in, scores, verdicts and heat maps out          |
"""

from __future__ import annotations

from ad.core.predict.config import Conditions, ModelConfig, chosen_by_hand
from ad.core.predict.detector import LoadedDetector, check_localises
from ad.core.predict.loading import load, load_for_calibration
from ad.runtime.findings import Finding
from ad.runtime.sources import find_sources

__all__ = [
    "Conditions",
    "Finding",
    "LoadedDetector",
    "ModelConfig",
    "check_localises",
    "chosen_by_hand",
    "find_sources",
    "load",
    "load_for_calibration",
]
