"""One promise that a model must keep, as code that can be run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ad.core.testing.subject import Model


class NotApplicable(Exception):
    """Why a check says nothing of a model."""


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, as code."""

    run: Callable[[Model], None]
    """Raises `AssertionError` if it is broken."""
    needs: tuple[str, ...] = ()
    """Checks without whose success it cannot be run."""
