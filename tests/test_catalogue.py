"""What each name stands for, to the last number: `catalogue.json` was written down by itself."""

import dataclasses
import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from ad.core import ModelRegistry
from ad.core.registry import MODELS

WRITTEN = json.loads(Path(__file__).with_name("catalogue.json").read_text())

ASKED_FOR = {
    *("patchcore", "padim", "dfkde"),
    *("stfpm", "fre", "reverse-distillation", "efficientad-small", "efficientad-medium"),
    *("autoencoder", "ganomaly", "draem", "dsr"),
    *("cflow-resnet18", "cflow-resnet50", "fastflow-resnet50", "fastflow-cait", "fastflow-deit"),
    *("csflow", "uflow-resnet50", "uflow-mcait"),
    *("dfm", "cfa", "supersimplenet", "supersimplenet-supervised", "uninet"),
    *(f"dinomaly-{size}-{side}" for size in ("small", "base", "large") for side in (224, 392, 448)),
}
"""The configurations that the project exists for; the others are siblings of theirs."""

ALIASES = {"efficientad": "efficientad-medium"}


def test_every_name_is_written_down():
    names = {p.name for p in entry_points(group=MODELS) if p.dist.name != "ad-example-plugin"}
    assert names == {*WRITTEN, *ALIASES}


def test_all_34_configurations_are_there():
    assert len(ASKED_FOR) == 34
    assert {*WRITTEN} >= ASKED_FOR


@pytest.mark.parametrize("name", WRITTEN)
def test_a_name_stands_for_what_is_written_down(name):
    spec = ModelRegistry.get(name)
    fields = {field.name for field in dataclasses.fields(spec)} - {"name", "aliases"}
    found = {field: getattr(spec, field) for field in fields}
    assert spec.name == name
    assert json.loads(json.dumps(found, default=dict)) == WRITTEN[name]


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_is_the_same_entry(alias, name):
    assert ModelRegistry.get(alias) is ModelRegistry.get(name)
    assert alias in ModelRegistry.get(name).aliases
