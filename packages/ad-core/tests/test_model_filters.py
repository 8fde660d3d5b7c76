"""`ad models` that fit what is asked for."""

import json

import pytest

from ad.core import ModelRegistry, ModelSpec

PATH = "ad.core.testing.mean_picture:MeanPictureTrainer"
BASE = ModelSpec(
    name="plain",
    trainer=PATH,
    model={},
    train={"num_epochs": 1, "batch_size": 4, "img_size": 64, "normalize": False},
    tasks=("classifies",),
)
MODELS = [
    BASE,
    BASE.variant("few", summary="", tasks=("classifies", "few-shot"), by_gradient=False),
    BASE.variant("both", summary="", tasks=("localises", "few-shot"), by_gradient=True),
    BASE.variant("large", summary="", train={"img_size": 65, "num_epochs": 2}, by_gradient=False),
    BASE.variant("named", summary="", weights=("a-teacher",), by_gradient=True),
    BASE.variant("backed", summary="", model={"backbone": "resnet18"}, package="ad-backed"),
]


@pytest.fixture
def listed(run_ad, monkeypatch):
    """Names that `ad models` lists, of `MODELS` alone."""
    monkeypatch.setattr(ModelRegistry, "names", lambda: sorted(spec.name for spec in MODELS))
    monkeypatch.setattr(ModelRegistry, "_added", {spec.name: spec for spec in MODELS})

    def run(*words):
        status, out, _ = run_ad("models", *words, "--json")
        assert status == 0
        return {model["name"] for model in json.loads(out)["models"]}

    return run


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), {"plain", "few", "both", "large", "named", "backed"}),
        (("--task", "few-shot"), {"few", "both"}),
        (("--task", "few-shot", "--task", "localises"), {"both"}),
        (("--task", "zero-shot"), set()),
        (("--package", "ad-backed"), {"backed"}),
        (("--no-gradient",), {"few", "large"}),
        (("--no-weights",), {"plain", "few", "both", "large"}),
        (("--max-img-size", 64), {"plain", "few", "both", "named", "backed"}),
        (("--max-img-size", 65), {"plain", "few", "both", "large", "named", "backed"}),
        (("--max-epochs", 1), {"plain", "few", "both", "named", "backed"}),
        (("--task", "few-shot", "--no-gradient", "--no-weights"), {"few"}),
    ],
)
def test_models_are_listed_that_fit_all_that_is_asked_for(listed, words, names):
    assert listed(*words) == names


def test_models_that_do_not_say_how_they_learn_are_told(listed, run_ad):
    err = run_ad("models", "--no-gradient")[2]
    assert err.splitlines() == [
        f"note: `{name}` does not say whether it learns by gradient: left out"
        for name in ("backed", "plain")
    ]
    assert run_ad("models", "--no-gradient", "--task", "few-shot")[2] == ""


def test_where_none_fits_that_is_said(listed, run_ad):
    status, out, err = run_ad("models", "--task", "supervised")
    assert (status, out) == (0, "")
    assert err == "note: None of the 6 installed models fits all of this; ask for less.\n"


def test_a_task_that_there_is_not_is_told_with_all_that_there_are(run_ad):
    status, out, err = run_ad("models", "--task", "fewshot")
    assert (status, out) == (1, "")
    assert "There is no task `fewshot`. Did you mean `few-shot`? Tasks are:\n  classifies: " in err
    assert "\n  multi-product: made for several products in one model\n" in err


def test_a_package_without_models_is_told_with_those_that_have_some(listed, run_ad):
    status, _, err = run_ad("models", "--package", "ad-baked")
    assert status == 1
    assert "No installed package `ad-baked` brings models. Did you mean `ad-backed`?" in err
    assert "Those that do: ad-backed." in err
    assert "hint" not in err
    assert "hint" not in run_ad("models", "--package", "ad-core")[2]
    missing = run_ad("models", "--package", "ad-memory")[2]
    assert "hint: in a clone of this project: pip install ./packages/ad-memory\n" in missing


def test_a_package_stands_below_its_model_where_lines_are_narrow(listed, run_ad, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert "│ backed      │" in run_ad("models")[1]
    assert "│   ad-backed" in run_ad("models")[1]
    monkeypatch.setenv("COLUMNS", "120")
    assert "│ backed │ ad-backed │" in run_ad("models")[1]
