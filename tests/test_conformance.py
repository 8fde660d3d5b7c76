"""Every installed model keeps the promises of a detector."""

from importlib.metadata import entry_points

import pytest

from ad.core import ModelRegistry, ModelSpec, load_trainer
from ad.core.registry import MODELS
from ad.core.settings import resolve_options
from ad.core.testing import check_model
from ad.core.testing.conformance import CHECKS, EPOCHS, IMG_SIZE
from ad.core.testing.subject import Model

SPECS = {
    spec.name: spec
    for spec in (ModelRegistry.get(point.name) for point in entry_points(group=MODELS))
}


def tried(spec):
    """How the kit tries a model, beside what the model is called."""
    return {"img_size": IMG_SIZE, "num_epochs": EPOCHS, "options": {}, **spec.check}


def kinds(specs):
    """Names of models that the kit cannot tell apart, since it makes them equally small."""
    found = {}
    for spec in specs:
        how = tried(spec)
        how["options"] = resolve_options(spec, load_trainer(spec), how["options"])
        same = repr((spec.trainer, spec.train["normalize"], sorted(how.items())))
        found.setdefault(same, []).append(spec.name)
    return list(found.values())


FIRST = sorted(min(names) for names in kinds(SPECS.values()))


@pytest.mark.parametrize("name", FIRST)
def test_a_model_keeps_what_every_detector_promises(name):
    check_model(name)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_name_stands_for_a_trainer_and_options_that_it_takes(name):
    """Where the kit has tried its like under another name, so does what it says of names."""
    spec = SPECS[name]
    assert set(spec.model) <= set(resolve_options(spec, load_trainer(spec), {}))
    if name not in FIRST:
        how = tried(spec)
        model = Model(spec, **{key: how[key] for key in ("img_size", "num_epochs", "options")})
        for check in ("catalogue", "options"):
            CHECKS[check].run(model)


def test_models_are_alike_only_if_all_is_that_the_kit_makes_of_them():
    def spec(name, *, gain=1.0, normalize=False, **check):
        return ModelSpec(
            name=name,
            trainer="ad.core.testing.mean_picture:MeanPictureTrainer",
            model={"gain": gain},
            train={"num_epochs": 1, "batch_size": 4, "img_size": 256, "normalize": normalize},
            check=check,
        )

    small = {"gain": 2.0}
    specs = [spec("a", options=small), spec("b", gain=3.0, options=small), spec("c", gain=2.0)]
    specs += [spec("d", gain=3.0), spec("e", gain=2.0, normalize=True)]
    specs += [spec("f", gain=2.0, img_size=96), spec("g", gain=2.0, num_epochs=40)]
    specs += [spec("h", gain=2.0, expected_failures={"place": "it cannot"})]
    assert kinds(specs) == [["a", "b", "c"], ["d"], ["e"], ["f"], ["g"], ["h"]]
