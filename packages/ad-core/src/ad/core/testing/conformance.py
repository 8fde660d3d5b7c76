"""The conformance kit: runs on a model what every model must promise, and tells how it did.

It lives in the library, not under tests/, so that models of others can be checked too: by
`check_model` in a test, by ``ad check NAME`` at the command line. What is promised stands in
`ad.core.testing.promises`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ad.core.errors import SettingError, listed, nearest, raised_at
from ad.core.registry import ModelRegistry
from ad.core.testing.check import Check, NotApplicable
from ad.core.testing.promises import CHECKS as CHECKS
from ad.core.testing.promises import TOLERANCE as TOLERANCE
from ad.core.testing.subject import Model
from ad.runtime.framing.size import Sides
from ad.runtime.progress import SILENT, Progress

IMG_SIZE = 64
"""Side of the pictures, in pixels, unless the model's catalogue says otherwise."""

EPOCHS = 20
"""For models that learn by gradient: enough to see a blatant defect, not enough to be good."""

_KEYS = ("img_size", "num_epochs", "options", "expected_failures")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """How a model did in one check."""

    id: str
    """Which one; the names stay, so that they can be referred to."""
    outcome: Literal["passed", "failed", "expected", "skipped"]
    """``expected``: it failed, as its author said; ``skipped``: it does not apply, or what it
    needs failed."""
    message: str
    """The promise that was broken, why that was expected, or why it was not checked."""
    seconds: float
    """How long it took."""


def check_model(
    name: str,
    *,
    img_size: Sides | None = None,
    options: Mapping[str, Any] | None = None,
    num_epochs: int | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> None:
    """Train a model on tiny pictures, offline, and check what every detector promises.

    Args:
        name: Registry name.
        img_size: Side of the pictures in pixels, or height and width.
        options: Options other than the catalogue's, to make it small.
        num_epochs: How long a model that learns by gradient may learn until it must see a
            blatant defect; most need a tenth of that.
        expected_failures: Ids of checks that are known to fail, with the reason; that such a one
            passes is a failure. What is left out here is as `ModelSpec.check` says.

    Raises:
        AssertionError: Naming the first promise that was broken.
    """
    for result in _results(name, img_size, options, num_epochs, expected_failures, SILENT):
        if result.outcome == "failed":
            msg = f"`{name}` fails `{result.id}`: {result.message}"
            raise AssertionError(msg)


def run_checks(
    name: str,
    *,
    img_size: Sides | None = None,
    options: Mapping[str, Any] | None = None,
    num_epochs: int | None = None,
    expected_failures: Mapping[str, str] | None = None,
    progress: Progress = SILENT,
) -> list[CheckResult]:
    """Run all checks of `check_model` and tell how each went.

    Args:
        name: As for `check_model`, and so are the others.
        img_size: Side of the pictures in pixels, or height and width.
        options: Options other than the catalogue's.
        num_epochs: How long to learn at most.
        expected_failures: Ids of checks that are known to fail, with the reason.
        progress: Where to show how far it is.

    Returns:
        One result per check, in the order of `CHECKS`.

    Raises:
        SettingError: If an option, or the id of an expected failure, does not exist.
        UnknownNameError: If nothing provides the model.
    """
    return list(_results(name, img_size, options, num_epochs, expected_failures, progress))


def _results(
    name: str,
    img_size: Sides | None,
    options: Mapping[str, Any] | None,
    num_epochs: int | None,
    expected_failures: Mapping[str, str] | None,
    progress: Progress,
) -> Iterator[CheckResult]:
    spec = ModelRegistry.get(name)
    declared = dict(spec.check)
    if wrong := set(declared) - set(_KEYS):
        msg = f"`check` of model `{name}` may have {listed(_KEYS)}; got {listed(wrong)}."
        raise SettingError(msg)
    given = {
        "img_size": img_size,
        "num_epochs": num_epochs,
        "options": options,
        "expected_failures": expected_failures,
    }
    declared |= {key: value for key, value in given.items() if value is not None}
    expected = dict(declared.get("expected_failures", {}))
    for identifier in expected:
        if identifier not in CHECKS:
            msg = (
                f"There is no check `{identifier}` that could be expected to fail."
                f"{nearest(identifier, CHECKS)} There are {listed(CHECKS)}."
            )
            raise SettingError(msg)
    model = Model(
        spec,
        img_size=declared.get("img_size", IMG_SIZE),
        options=declared.get("options", {}),
        num_epochs=declared.get("num_epochs", EPOCHS),
    )
    unusable: set[str] = set()
    with progress.step("checking", total=len(CHECKS), unit="promises") as advance:
        for identifier, check in CHECKS.items():
            result = _result(identifier, check, model, expected.get(identifier), unusable)
            if result.outcome in ("failed", "expected"):
                unusable.add(identifier)
            yield result
            advance(1)


def _result(
    identifier: str, check: Check, model: Model, expected: str | None, unusable: set[str]
) -> CheckResult:
    outcome: Literal["passed", "failed", "expected", "skipped"] = "passed"
    message = ""
    started = time.perf_counter()
    try:
        if missing := [one for one in check.needs if one in unusable]:
            msg = f"`{missing[0]}` failed, and this needs it"
            raise NotApplicable(msg)
        check.run(model)
    except NotApplicable as reason:
        outcome, message = "skipped", str(reason)
    except Exception as error:  # a model may raise anything
        broken = isinstance(error, AssertionError)
        said = f"{type(error).__name__}: {error}{raised_at(error, model.module)}"
        said = str(error) if broken else said
        outcome, message = ("expected", f"{expected} ({said})") if expected else ("failed", said)
    else:
        if expected:
            outcome = "failed"
            message = f"it was expected to fail ({expected}), and passes: take that back"
    seconds = time.perf_counter() - started
    return CheckResult(id=identifier, outcome=outcome, message=message, seconds=seconds)
