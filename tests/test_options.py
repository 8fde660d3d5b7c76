"""Every option of every installed model has limits that hold however its trainer is built."""

import math
import re
import sys
import typing
import warnings
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ad.core import AdError, ModelRegistry, Setup, load_trainer, train
from ad.core.cli import main
from ad.core.errors import SettingError
from ad.core.options import options_of
from ad.core.registry import MODELS
from ad.core.saved.allocation import built_within
from ad.core.settings import resolve_options

EXTREMES = [math.nan, math.inf, -math.inf, -1e300, 1e308, 10**18, -(10**18), 10**5000]


def specs():
    """One of each trainer, the smallest there is."""
    found = {}
    for name in sorted(point.name for point in entry_points(group=MODELS)):
        spec = ModelRegistry.get(name)
        if spec.trainer not in found or name.endswith("-resnet18"):
            found[spec.trainer] = spec
    return sorted(found.values(), key=lambda spec: spec.name)


SPECS = specs()
TRAINERS = {spec.name: load_trainer(spec) for spec in SPECS}
OPTIONS = [(spec, name) for spec in SPECS for name in options_of(TRAINERS[spec.name])]
each_option = pytest.mark.parametrize(
    ("spec", "name"), OPTIONS, ids=[f"{spec.name}-{name}" for spec, name in OPTIONS]
)


def small(spec):
    """Options that make it quick to build, as its catalogue has them for being checked."""
    options = dict(spec.check.get("options", {}))
    if "backbone" in options_of(TRAINERS[spec.name]):
        options["backbone"] = "resnet18"
    return options


def hint_of(spec, name):
    return typing.get_type_hints(TRAINERS[spec.name].__init__, include_extras=True)[name]


def refused(spec, name, value):
    try:
        resolve_options(spec, TRAINERS[spec.name], {name: value})
    except SettingError as error:
        return len(str(error)) < 2000  # to be read
    return False


@each_option
def test_no_option_takes_an_extreme_number(spec, name):
    default = spec_default(spec, name)
    width = len(default) if isinstance(default, tuple) and default else 1
    for extreme in EXTREMES:
        assert refused(spec, name, extreme), extreme
        assert refused(spec, name, [extreme] * width), extreme


def spec_default(spec, name):
    return resolve_options(spec, TRAINERS[spec.name], {})[name]


@each_option
def test_no_option_takes_a_value_without_end(spec, name):
    assert refused(spec, name, "x" * 10**6)
    assert refused(spec, name, ["x"] * 10**5)


@each_option
def test_a_number_has_limits_on_both_sides(spec, name):
    for hint in numbers_in(hint_of(spec, name)):
        kinds = {type(one) for one in marks(hint)}
        assert kinds & {Ge, Gt}, f"`{name}` has no lower limit"
        assert kinds & {Le, Lt}, f"`{name}` has no upper limit"


def numbers_in(hint):
    """The annotations of numbers that an annotation is made of."""
    if get_origin(hint) is Annotated:
        inner = get_args(hint)[0]
        return [hint] if inner in (int, float) else numbers_in(inner)
    if get_origin(hint) is Literal:
        return []
    if hint in (int, float):
        return [hint]
    return [number for part in get_args(hint) for number in numbers_in(part)]


def marks(hint):
    """What bounds a number."""
    return [mark for field in get_args(hint)[1:] for mark in field.metadata]


def limits(hint):
    """The least and greatest value."""
    least, most = -math.inf, math.inf
    step = 1 if get_args(hint)[0] is int else None
    for mark in marks(hint):
        if isinstance(mark, Ge):
            least = mark.ge
        elif isinstance(mark, Gt):
            least = mark.gt + step if step else math.nextafter(mark.gt, math.inf)
        elif isinstance(mark, Le):
            most = mark.le
        elif isinstance(mark, Lt):
            most = mark.lt - step if step else math.nextafter(mark.lt, -math.inf)
    return least, most


def inside(hint) -> st.SearchStrategy[Any]:
    """Values that an annotation allows, its limits more often than others."""
    if numbers := ([hint] if hint in numbers_in(hint) else []):
        least, most = limits(numbers[0])
        kind = st.integers if get_args(hint)[0] is int else st.floats
        return st.sampled_from([least, most]) | kind(least, most)
    if get_origin(hint) is Annotated:
        return inside(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple:
        parts = [part for part in get_args(hint) if part is not Ellipsis]
        if Ellipsis in get_args(hint):
            return st.lists(inside(parts[0]), max_size=5).map(tuple)
        return st.tuples(*map(inside, parts))
    if hint is bool:
        return st.booleans()
    if hint is type(None):
        return st.none()
    if hint is str:
        return st.sampled_from(["", "layer1", "layer3", "/nowhere", "\0", "é\n", "resnet18"])
    return st.one_of(*map(inside, get_args(hint)))


def built_or_refused(spec, options):
    """Build a trainer as for a saved model that explains no memory; whether there was an error."""
    setup = Setup(img_size=64, normalize=spec.train["normalize"], weights="random", batch_size=2)
    try:
        chosen = resolve_options(spec, TRAINERS[spec.name], {**small(spec), **options})
        with built_within({}, Path("model")):
            trainer = TRAINERS[spec.name](setup, **chosen)
    except AdError:
        return True
    return not isinstance(trainer.detector, torch.nn.Module)


@pytest.mark.slow
@each_option
def test_a_trainer_can_be_built_at_the_limits_or_says_why_not(spec, name):
    for hint in numbers_in(hint_of(spec, name))[:1]:
        if get_origin(hint_of(spec, name)) is not tuple:
            for value in limits(hint):
                built_or_refused(spec, {name: value})


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_a_trainer_is_built_within_memory_or_says_why_not(spec, data):
    options = {
        name: data.draw(inside(hint_of(spec, name)), name)
        for name in options_of(TRAINERS[spec.name])
        if name != "backbone" and data.draw(st.booleans())
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built_or_refused(spec, options)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_name_that_is_none_is_refused_before_anything_is_built(spec):
    trainer = TRAINERS[spec.name]
    setup = Setup(img_size=64, normalize=spec.train["normalize"], weights="random")
    for name in options_of(trainer):
        hint = hint_of(spec, name)
        hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if get_origin(hint) is Literal:
            allowed = get_args(hint)
            with pytest.raises(SettingError, match=f"Option `{name}` of `{trainer.__name__}`"):
                trainer(setup, **{name: allowed[0].title()})


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        ("stfpm", ["--set", "lr=-1"], "Option `lr` of model `stfpm`: .* greater than 0; got -1"),
        ("stfpm", ["--set", "weight_decay=-1"], "`weight_decay` .* or equal to 0; got -1"),
        ("ganomaly", ["--set", "gamma=-1"], "Option `gamma` .* greater than 0; got -1"),
        (
            "autoencoder",
            ["--set", "latent_dim=100000000"],
            "`latent_dim` .* to 4096; got 1000",
        ),
        ("autoencoder", ["--set", "sigma=1e999"], "`sigma` of .* finite number; got inf"),
        ("autoencoder", ["--set", f"latent_dim={'9' * 5000}"], "`latent_dim` .* valid integer"),
        ("padim", ["--set", "reduction=Random"], "'random', 'pca' or 'semi_orth'; got 'Random'"),
        ("stfpm", ["--epochs", "0"], "`num_epochs`: .* or equal to 1; got 0"),
        ("stfpm", ["--steps", "99999999999"], "`num_steps`: .* or equal to 1000000000; got"),
        ("stfpm", ["--steps", "9", "--epochs", "2"], "`--epochs 2` and `--steps 9` .* one of them"),
        ("stfpm", ["--batch-size", "99999999999"], "`batch_size`: .* or equal to 65536; got"),
        ("stfpm", ["--img-size", "-3"], "`img_size`: .* or equal to 16; got -3"),
        ("stfpm", ["--patience", "0"], "`patience`: .* or equal to 1; got 0"),
        ("stfpm", ["--holdout", "nan"], "`--holdout` .* from 0 to below 1, .*; got nan"),
        ("stfpm", ["--false-alarms", "-inf"], "`--false-alarms` .* below 1; got -inf"),
        ("stfpm", ["--seed", "99999999999999999999"], "`seed`: .* less than 92"),
    ],
)
def test_a_command_names_what_is_wrong_before_it_reads_pictures(
    monkeypatch, capsys, tmp_path, model, arguments, words
):
    (tmp_path / "good").mkdir()
    (tmp_path / "good/a.png").write_bytes(b"no picture")
    monkeypatch.setattr(sys, "argv", ["ad", "train", "folder", str(tmp_path), model, *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert re.match(f"error: .*{words}", capsys.readouterr().err)


@pytest.mark.parametrize("minutes", [-1, math.nan, math.inf, 10**18, "5"])
def test_checkpoints_are_due_after_a_time_that_can_be(tmp_path, minutes):
    (tmp_path / "good").mkdir()
    with pytest.raises(SettingError, match="`checkpoint_minutes`: input should be .*; got"):
        train("folder", str(tmp_path), "stfpm", checkpoint_minutes=minutes)
