"""The models of a bench, each with the options that it is tried with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ad.core.errors import listed
from ad.core.options import as_typed, options_of, parse_model, refuse_no_models, refuse_unset
from ad.core.registry import ModelRegistry, ModelSpec, load_trainer
from ad.core.settings import resolve_options
from ad.core.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One model with options of its own."""

    spec: ModelSpec
    """Its catalogue entry."""
    trainer: type[Trainer]
    """How it learns."""
    options: dict[str, Any]
    """Those that were given."""
    label: str
    """Its name with the options that are not its usual ones; unlike that of any other."""


def contenders(
    models: Sequence[str], shared: Mapping[str, Any], *, budget: str = "default"
) -> list[Contender]:
    """Read and check a list of models.

    Warns of an option for all that some do not have or have a value of their own for, and of a
    model that is listed again in other words.

    Args:
        models: Each ``NAME`` or ``NAME[KEY=VALUE;...]``.
        shared: Options for all models that have them; those in brackets count more.
        budget: Whose numbers those that are left open are.

    Raises:
        AdError: One of its kinds, for an unknown model, option or value.
    """
    refuse_no_models(models)
    read = [(text, *parse_model(text)) for text in models]
    known = [(text, ModelRegistry.get(name), own) for text, name, own in read]
    trainers = {spec.name: load_trainer(spec) for _, spec, _ in known}
    options = {name: set(options_of(trainer)) for name, trainer in trainers.items()}
    refuse_unset(shared, options)
    found: dict[str, Contender] = {}
    for text, spec, own in known:
        trainer = trainers[spec.name]
        given = {key: shared[key] for key in shared if key in options[spec.name]} | own
        usual = dict(spec.paper_budget.get("options", {})) if budget == "paper" else {}
        before = resolve_options(spec, trainer, usual)
        after = resolve_options(spec, trainer, usual | given)
        changed = {key: after[key] for key in after if after[key] != before[key]}
        label = label_of(spec.name, changed)
        if label in found and own:
            warnings.warn(f"`{text}` is `{label}`, listed before: it runs once.", stacklevel=3)
        one = Contender(spec=spec, trainer=trainer, options=given, label=label)
        found.setdefault(label, one)
    for key, value in shared.items():
        set_it = f"`{key}` = {as_typed(value)} is not set"
        lacking = [name for name, has in options.items() if key not in has]
        if lacking:
            warnings.warn(f"{set_it} for {listed(lacking)}: no such option there.", stacklevel=3)
        own_value = [text for text, _, own in known if key in own]
        if own_value:
            msg = f"{set_it} for {listed(own_value)}: a value of its own counts more."
            warnings.warn(msg, stacklevel=3)
    return list(found.values())


def label_of(name: str, options: Mapping[str, Any]) -> str:
    """A model with options as `ad bench` reads it: ``patchcore[coreset_ratio=0.01]``."""
    typed = ";".join(f"{key}={as_typed(value)}" for key, value in options.items())
    return f"{name}[{typed}]" if typed else name
