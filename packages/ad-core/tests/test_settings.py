import math
import re
from typing import Annotated, Literal

import numpy as np
import pytest

from ad.core.errors import SettingError
from ad.core.jobs.run_directory import command_line
from ad.core.options import Field, parse_assignments
from ad.core.registry import ModelSpec
from ad.core.settings import resolve_options, run_settings


class Trainer:
    def __init__(
        self,
        setup: object,
        *,
        layers: tuple[str, ...] = ("layer2",),
        score: Literal["max", "reweight"] = "max",
        ratio: float = 0.1,
        neighbors: int = 1,
        fast: bool = False,
        size: tuple[int, int] = (8, 8),
    ) -> None:
        pass


SPEC = ModelSpec(
    name="toy",
    trainer="x:Y",
    model={"ratio": 0.5},
    train={"num_epochs": 1, "batch_size": 8, "img_size": 256, "normalize": True},
)


def test_options_are_completed_from_catalogue_and_signature():
    assert resolve_options(SPEC, Trainer, {"neighbors": 3}) == {
        "layers": ("layer2",),
        "score": "max",
        "ratio": 0.5,
        "neighbors": 3,
        "fast": False,
        "size": (8, 8),
    }


def test_an_unknown_option_is_told_the_nearest_and_all():
    words = "has no option `neighbours`. Did you mean `neighbors`.*`fast`, `layers`"
    with pytest.raises(SettingError, match=words):
        resolve_options(SPEC, Trainer, {"neighbours": 3})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("score", "mean", "Option `score` of model `toy`.*'max' or 'reweight'; got 'mean'"),
        ("neighbors", "3", "valid integer; got '3'"),
        ("neighbors", True, "valid integer; got True"),
        ("neighbors", 1.5, "integer"),
        ("ratio", "much", "valid number; got 'much'"),
        ("fast", 1, "valid boolean; got 1"),
        ("layers", 3, "valid array; got 3"),
        ("layers", {1, 2}, "numbers, texts, lists of them or None"),
    ],
)
def test_an_ill_typed_option_says_what_is_allowed(name, value, words):
    with pytest.raises(SettingError, match=words):
        resolve_options(SPEC, Trainer, {name: value})


def test_options_typed_on_a_command_line_are_understood():
    given = parse_assignments(
        ["ratio=0.01", "layers=layer2, layer3", "score=reweight", "fast=true", "size=64, 32"]
    )
    options = resolve_options(SPEC, Trainer, given)
    assert (options["layers"], options["size"]) == (("layer2", "layer3"), (64, 32))
    assert resolve_options(SPEC, Trainer, {"layers": "1,2"})["layers"] == ("1", "2")
    assert (options["ratio"], options["score"], options["fast"]) == (0.01, "reweight", True)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 10**5, "1e999", "NaN", "-Infinity"])
def test_a_text_that_json_cannot_hold_or_that_is_no_number_is_refused(value):
    given = parse_assignments([f"limited={value}"])
    with pytest.raises(SettingError, match="Option `limited` of model `toy`: input should be a"):
        resolve_options(SPEC, LimitedTrainer, given)


class LimitedTrainer:
    def __init__(
        self, setup: object, *, ratio: float = 0.1, limited: Annotated[int, Field(ge=1)] = 1
    ) -> None:
        pass


def test_an_option_that_is_set_twice_is_refused():
    assert parse_assignments(["a=1", "b=1"]) == {"a": 1, "b": 1}
    with pytest.raises(SettingError, match=r"`--set a=\.\.\.` is given twice, .*as `a=1`\. Leave"):
        parse_assignments(["a=1", "b=2", "a=1"])


@pytest.mark.parametrize("text", ["ratio", "=3", "a b=3"])
def test_what_is_no_assignment_is_refused(text):
    with pytest.raises(SettingError, match="`--set` takes KEY=VALUE"):
        parse_assignments([text])


def test_a_run_takes_the_catalogues_numbers_unless_told_otherwise():
    settings = run_settings(SPEC, Trainer, dataset="mvtec", category="bottle", batch_size=2)
    assert (settings.num_epochs, settings.batch_size, settings.img_size) == (1, 2, 256)
    assert settings.normalize


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("batch_size", 0, "`batch_size`: input should be greater than or equal to 1; got 0"),
        ("img_size", 8, "`img_size`: input should be greater than or equal to 16; got 8"),
        ("seed", -1, "`seed`: input should be greater than or equal to 0"),
        ("device", "gpu", "`device`: must be `auto`, `cpu`, `cuda` or `cuda:N`; got 'gpu'"),
        ("num_epochs", 0, "`num_epochs`: input should be greater than or equal to 1; got 0"),
        ("num_epochs", 10**18, "`num_epochs`: input should be less than or equal to 1000000; got"),
        ("num_steps", 10**18, "`num_steps`: input should be less than or equal to 1000000000; got"),
        ("num_steps", -1, "`num_steps`: input should be greater than or equal to 1; got -1"),
        ("batch_size", 10**18, "`batch_size`: input should be less than or equal to 65536; got 10"),
        ("batch_size", math.nan, "`batch_size`: input should be a valid integer; got nan"),
        ("img_size", 10**18, "`img_size`: input should be less than or equal to 4096; got 1000"),
        ("patience", 0, "`patience`: input should be greater than or equal to 1; got 0"),
        ("patience", 10**18, "`patience`: input should be less than or equal to 1000000; got"),
        ("seed", 2**63, "`seed`: input should be less than 9223372036854775808; got 9223"),
        ("weights", "x" * 5000, "`weights`: string should have at most 4096 characters; got 'xxx"),
        ("precision", "fp8", "`precision`: input should be 'auto', 'fp32' or 'bf16'; got 'fp8'"),
    ],
)
def test_a_setting_out_of_range_says_what_is_allowed(field, value, words):
    with pytest.raises(SettingError, match=words):
        run_settings(SPEC, Trainer, dataset="mvtec", category="bottle", **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "got", "percent", "share"),
    [
        ("holdout", 2.0, "2", "2", "0.02"),
        ("holdout", 1.0, "1", "1", "0.01"),
        ("holdout", 99.5, "99.5", "99.5", "0.995"),
        ("holdout", 100.0, "100", "5", "0.05"),
        ("holdout", -0.1, "-0.1", "5", "0.05"),
        ("holdout", math.nan, "nan", "5", "0.05"),
        ("holdout", -math.inf, "-inf", "5", "0.05"),
        ("false_alarms", 5, "5", "5", "0.05"),
        ("false_alarms", 0.0, "0", "5", "0.05"),
        ("false_alarms", math.nan, "nan", "5", "0.05"),
        ("false_alarms", 1e300, "1e+300", "5", "0.05"),
    ],
)
def test_a_share_that_cannot_be_says_what_to_type(field, value, got, percent, share):
    allowed = "from 0 to below 1, or `cross`, or `auto`"
    if field == "false_alarms":
        allowed = "above 0 and below 1"
    option = field.replace("_", "-")
    with pytest.raises(SettingError) as raised:
        run_settings(SPEC, Trainer, dataset="mvtec", category="bottle", **{field: value})
    assert str(raised.value) == (
        f"`--{option}` (`{field}` in Python) is a share of the good pictures, {allowed}; got "
        f"{got}. For {percent} %: `--{option} {share}` (`{field}={share}` in Python)."
    )


def test_numbers_of_numpy_are_numbers():
    """Sweeps take seeds from `arange` and shares from `linspace`; what is kept is Python's own."""
    given = {"ratio": np.float32(0.25), "neighbors": np.int64(3), "fast": np.True_}
    options = resolve_options(SPEC, Trainer, {**given, "size": (np.int32(4), 5)})
    seen = {key: options[key] for key in ("ratio", "neighbors", "fast", "size")}
    assert seen == {"ratio": 0.25, "neighbors": 3, "fast": True, "size": (4, 5)}
    assert {type(value) for value in (*seen.values(), *seen["size"])} == {float, int, bool, tuple}
    settings = run_settings(
        SPEC, Trainer, dataset="mvtec", category="a", normalize=np.False_,
        seed=np.int64(3), img_size=(np.int64(64), np.int16(96)), false_alarms=np.float32(0.25),
    )  # fmt: skip
    assert (settings.seed, settings.img_size, settings.false_alarms) == (3, (64, 96), 0.25)
    assert {type(one) for one in (settings.seed, *settings.img_size)} == {int}
    with pytest.raises(SettingError, match=r"`seed`: input should be a valid integer; got 3\.0"):
        run_settings(SPEC, Trainer, dataset="mvtec", category="a", seed=np.float64(3))


def test_a_setting_too_long_to_be_shown_is_refused():
    with pytest.raises(SettingError, match="`num_epochs`: .*; got a int too long to be shown"):
        run_settings(SPEC, Trainer, dataset="mvtec", category="bottle", num_epochs=10**5000)


LONG = ModelSpec(
    name="long",
    trainer="x:Y",
    model={"ratio": 0.5},
    train={"num_epochs": 5, "batch_size": 8, "img_size": 256, "normalize": True},
    paper_budget={"num_steps": 70_000, "batch_size": 32, "options": {"neighbors": 9}},
)


def settings_of(**given):
    return run_settings(LONG, Trainer, dataset="folder", category="all", **given)


def test_epochs_and_steps_are_not_given_together():
    words = (
        "`--epochs 5` and `--steps 7` (`num_epochs=5`, `num_steps=7` in Python) both say how long "
        "to learn. Give one of them, and leave the other out."
    )
    for budget in ("default", "paper"):
        with pytest.raises(SettingError, match=re.escape(words)):
            settings_of(num_epochs=5, num_steps=7, budget=budget)  # 5 is the catalogue's, too
        assert settings_of(num_steps=7, budget=budget).num_steps == 7


@pytest.mark.parametrize(
    "given", [{"num_steps": 7}, {"num_epochs": 3}, {"budget": "paper"}, {"num_steps": np.int64(7)}]
)
def test_the_command_of_a_run_makes_the_same_run(given):
    settings = settings_of(**given)
    words = command_line(settings)
    typed = {
        name: int(words[words.index(option) + 1])
        for name, option in (("num_epochs", "--epochs"), ("num_steps", "--steps"))
        if option in words
    }
    assert len(typed) == 1
    assert settings_of(**{**given, **typed}) == settings
    assert run_settings(LONG, Trainer, **settings.asked()) == settings


def test_the_papers_budget_changes_what_the_authors_did_otherwise():
    default, paper = settings_of(), settings_of(budget="paper")
    assert (default.num_epochs, default.num_steps, default.batch_size) == (5, None, 8)
    assert (paper.num_epochs, paper.num_steps, paper.batch_size) == (5, 70_000, 32)
    assert (default.options["neighbors"], paper.options["neighbors"]) == (1, 9)
    assert paper.options["ratio"] == 0.5


def test_what_a_user_says_counts_more_than_a_budget():
    run = settings_of(budget="paper", num_epochs=3, batch_size=2, options={"neighbors": 4})
    assert (run.num_epochs, run.num_steps, run.batch_size) == (3, None, 2)
    assert run.options["neighbors"] == 4
