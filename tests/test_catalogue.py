"""What each name stands for, to the last number: `catalogue.json` was written down by itself."""

import dataclasses
import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from ad.core import ModelRegistry
from ad.core.registry import MODELS

WRITTEN = json.loads(Path(__file__).with_name("catalogue.json").read_text())

ALIASES = {"efficientad": "efficientad-medium"}


def test_every_name_is_written_down():
    names = {p.name for p in entry_points(group=MODELS) if p.dist.name != "ad-example-plugin"}
    assert names == {*WRITTEN, *ALIASES}


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
