"""What a model's entry in the catalogue, and its options, must promise."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib.metadata import entry_points
from inspect import Parameter

from ad.core.errors import SettingError, listed
from ad.core.options import check_option, options_of
from ad.core.registry import MODELS, TASKS
from ad.core.settings import resolve_options
from ad.core.testing.check import NotApplicable
from ad.core.testing.subject import Model
from ad.core.trainer import GradientTrainer

_HEAVY = ("torch", "timm", "scipy", "faiss", "sklearn")

# Run in a process of its own, where nothing has been imported.
_PROBE = """
import os, sys
before = dict(os.environ)
from ad.core import ModelRegistry
spec = ModelRegistry.get(sys.argv[1])
print(*sorted(set(sys.argv[2:]) & set(sys.modules)), sep=", ")
print("environment" if before != dict(os.environ) else "")
"""


def check_catalogue(model: Model) -> None:
    """The entry is light to import, says what the model is, and is right about it.

    Raises:
        AssertionError: With the first promise that is broken.
        NotApplicable: If the model was registered without an entry.
    """
    spec = model.spec
    if not entry_points(group=MODELS, name=spec.name):
        msg = "it was registered at run time and has no entry point"
        raise NotApplicable(msg)
    command = [sys.executable, "-c", _PROBE, spec.name, *_HEAVY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the catalogue cannot be imported alone: {done.stderr.strip()}"
    *said, heavy, changed = done.stdout.splitlines()
    assert not heavy, f"the catalogue must not import {heavy}: `ad models` reads it"
    assert not changed, "importing the catalogue must leave the environment alone"
    assert not said, f"importing the catalogue must print nothing; it prints {said[0]!r}"
    assert spec.summary, "the catalogue must say in one line what the model is (`summary`)"
    for alias in spec.aliases:
        assert entry_points(group=MODELS, name=alias), (
            f"the alias `{alias}` needs an entry point of its own, to the same object"
        )
    unknown = set(spec.tasks) - set(TASKS)
    assert not unknown, f"`tasks` must be some of {listed(TASKS)}; got {listed(unknown)}"
    trainer = model.build()
    localises = trainer.detector.localises
    assert localises == ("localises" in spec.tasks), (
        f"`tasks` must say `localises` as the detector does; it says {localises}, "
        "and a detector without maps has `localises = False` in its class"
    )
    steps = trainer.num_steps(len(model.good)) if isinstance(trainer, GradientTrainer) else 0
    assert spec.by_gradient in (None, steps > 0), (
        f"`by_gradient` must be {steps > 0}, as the trainer learns, or left out"
    )


def check_options(model: Model) -> None:
    """Options are what JSON can hold, and have types and limits.

    Raises:
        AssertionError: With the first promise that is broken.
    """
    # A saved model's configuration has them as JSON, and nothing else can be given by a user.
    text = json.dumps(model.options)
    back = resolve_options(model.spec, model.trainer_class, json.loads(text))
    assert back == model.options, "options must be what JSON can hold, and come back from it"
    for name, value in model.options.items():
        assert options_of(model.trainer_class)[name].annotation is not Parameter.empty, (
            f"option `{name}` must have an annotation, its type and its limits, such as "
            f"`{name}: Annotated[float, Field(ge=0, le=1)]`"
        )
        count = len(value) if isinstance(value, tuple) else None
        for extreme in (math.nan, math.inf, -1e300, 10**18):
            given = extreme if count is None else [extreme] * max(count, 1)
            assert _is_refused(model, name, given), (
                f"the annotation of option `{name}` must refuse {given}: give it limits, "
                "`Annotated[float, Field(ge=0, le=1)]`, or one saved model can take all memory"
            )


def _is_refused(model: Model, name: str, value: object) -> bool:
    try:
        check_option(model.trainer_class, name, value, f"model `{model.spec.name}`")
    except SettingError:
        return True
    return False
