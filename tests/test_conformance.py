"""Every installed model keeps the promises of a detector."""

from importlib.metadata import entry_points

import pytest

from ad.core import ModelRegistry
from ad.core.registry import MODELS
from ad.core.testing import check_model


def names():
    """One name of each model that is tried: as the kit tries them, some are the same."""
    specs = [ModelRegistry.get(name) for name in sorted(p.name for p in entry_points(group=MODELS))]
    same = {repr(tried(spec)): spec.name for spec in specs}
    return sorted(same.values())


def tried(spec):
    """All that the kit takes of an entry; epochs, batch and size are its own."""
    options = {**spec.model, **spec.check.get("options", {})}
    how = {key: value for key, value in spec.check.items() if key != "options"}
    return spec.trainer, options, how, spec.train["normalize"], spec.tasks


@pytest.mark.parametrize("name", names())
def test_a_model_keeps_what_every_detector_promises(name):
    check_model(name)
