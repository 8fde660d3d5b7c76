"""Drift: whether pictures score as those did that a threshold was set with."""

from ad.runtime.drift.comparing import Drift, compare
from ad.runtime.drift.stream import Stream

__all__ = ["Drift", "Stream", "compare"]
