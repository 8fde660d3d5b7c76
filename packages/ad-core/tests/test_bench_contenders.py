"""The list of models of a bench: options in brackets, options for all, names apart."""

import pytest

from ad.core.bench.beforehand import refuse_beforehand
from ad.core.bench.contenders import contenders
from ad.core.bench.executors import train_here
from ad.core.bench.jobs import plan
from ad.core.errors import SettingError, UnknownNameError
from ad.core.options import parse_model, split_models


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b", ["a", "b"]),
        (" a , b[x=1,y=2] ,, c", ["a", "b[x=1,y=2]", "c"]),
        ('a[x=["l,1","l]2"]],b', ['a[x=["l,1","l]2"]]', "b"]),
    ],
)
def test_a_list_is_split_outside_of_brackets(text, parts):
    assert split_models(text) == parts


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("m", {}),
        ("m[ratio=0.01]", {"ratio": 0.01}),
        ("m[a=1;b=text]", {"a": 1, "b": "text"}),
        ("m[a=1, b=2]", {"a": 1, "b": 2}),
        ("m[layers=layer2,layer3;a=true]", {"layers": "layer2,layer3", "a": True}),
        ("m[layers=layer2,layer3,a=null]", {"layers": "layer2,layer3", "a": None}),
        ('m[layers=["l;2","l,x=3"];a=1]', {"layers": ["l;2", "l,x=3"], "a": 1}),
        ("m[size=[32, 64]]", {"size": [32, 64]}),
        ("m[path=/a=b]", {"path": "/a=b"}),
    ],
)
def test_options_are_read_from_brackets(text, options):
    assert parse_model(text) == ("m", options)


@pytest.mark.parametrize(
    "text",
    ["m[", "m]", "m[]", "m[a]", "[a=1]", "m[a=1]b", "m[a=1", 'm[a="1]', "m[=1]", "m[1a=2]",
     "m[;a=1]", "m[a=1;]"],
)  # fmt: skip
def test_what_is_no_model_with_options_is_refused_in_words(text):
    with pytest.raises(SettingError, match=r"A model is NAME, or NAME\[KEY=VALUE\].*such as"):
        [parse_model(one) for one in split_models(text)]


def test_an_option_that_is_set_twice_is_refused():
    with pytest.raises(SettingError, match=r"`m\[a=1;a=2\]` sets `a` twice\. Leave out one"):
        parse_model("m[a=1;a=2]")


def test_models_with_other_options_are_told_apart_everywhere(mean_picture, roots, tmp_path):
    models = [mean_picture, f"{mean_picture}[gain=2]", f"{mean_picture}[gain=0.5]"]
    jobs = plan(["mvtec"], ["toy"], models, seeds=[0], output=tmp_path,
                data_roots={"mvtec": str(roots)})  # fmt: skip
    assert [job.label for job in jobs] == [mean_picture, *(f"mean-picture[gain={g}]" for g in
                                                          ("2.0", "0.5"))]  # fmt: skip
    assert [job.settings.options["gain"] for job in jobs] == [1.0, 2.0, 0.5]
    assert [job.name.rpartition("-")[0] for job in jobs] == [
        "mvtec-toy-mean-picture-seed0",
        "mvtec-toy-mean-picture-gain-2.0-seed0",
        "mvtec-toy-mean-picture-gain-0.5-seed0",
    ]
    # A label is itself a model with options, and the same one.
    again = [contenders([job.label], {})[0] for job in jobs]
    assert [one.label for one in again] == [job.label for job in jobs]


def test_a_model_that_is_listed_again_in_other_words_runs_once(mean_picture):
    with pytest.warns(UserWarning, match=r"`mean-picture\[gain=1.0\]` is `mean-picture`, listed"):
        (one,) = contenders([mean_picture, f"{mean_picture}[gain=1.0]"], {})
    assert one.label == mean_picture
    assert len(contenders([mean_picture, mean_picture], {})) == 1


def test_an_option_for_all_is_set_where_it_is_and_told_where_it_is_not(mean_picture, student):
    with pytest.warns(UserWarning, match="`gain` = 2 is not set for") as told:
        one, other, third = contenders(
            [mean_picture, student, f"{mean_picture}[gain=3]"], {"gain": 2}
        )
    assert [str(warning.message) for warning in told] == [
        "`gain` = 2 is not set for `linear-student`: no such option there.",
        "`gain` = 2 is not set for `mean-picture[gain=3]`: a value of its own counts more.",
    ]
    assert (one.label, third.label) == ("mean-picture[gain=2.0]", "mean-picture[gain=3.0]")
    assert (other.label, other.options) == ("linear-student", {})


def test_epochs_are_not_set_for_what_learns_in_one_pass(mean_picture, student, roots, tmp_path):
    def planned(*models, **given):
        return plan(["mvtec"], ["toy"], models, seeds=[0], output=tmp_path,
                    data_roots={"mvtec": str(roots)}, **given)  # fmt: skip

    words = r"`--epochs 2` \(`num_epochs`\) is not set for `mean-picture`: there is one pass"
    with pytest.warns(UserWarning, match=words):
        jobs = planned(mean_picture, student, num_epochs=2)
    assert [job.settings.num_epochs for job in jobs] == [1, 2]
    with pytest.warns(UserWarning, match="`--steps 1`"):
        jobs = planned(mean_picture, student, num_steps=1)
    assert [job.settings.num_steps for job in jobs] == [None, 1]
    refuse_beforehand(jobs, here=True)
    assert train_here(jobs[1], 1) is None
    with pytest.raises(SettingError, match=r"`--epochs 2` .*: `mean-picture` learn in one"):
        planned(mean_picture, num_epochs=2)
    assert len(planned(mean_picture, student, num_epochs=1)) == 2
    with pytest.raises(SettingError, match="`--epochs 2` and `--steps 3` .* Give one of them"):
        planned(student, num_epochs=2, num_steps=3)
    with pytest.raises(SettingError, match=r"`holdout` cross is for models that learn in one pass"):
        planned(mean_picture, student, holdout="cross")


def test_options_that_cannot_work_are_refused(mean_picture, student):
    words = r"No model here has an option `gian`: neither `linear-student`, `mean-picture`\. Did yo"
    with pytest.raises(SettingError, match=words):
        contenders([mean_picture, student], {"gian": 2})
    with pytest.raises(SettingError, match=r"Model `mean-picture` has no option `x`\. .*ad show"):
        contenders([mean_picture], {"x": 2})
    with pytest.raises(SettingError, match="Model `mean-picture` has no option `dropout`"):
        contenders([f"{mean_picture}[dropout=0.1]", student], {})
    with pytest.raises(SettingError, match="Option `gain` of model `mean-picture`: input should"):
        contenders([mean_picture], {"gain": "much"})
    with pytest.raises(UnknownNameError, match="No model named `mean`"):
        contenders(["mean[gain=1]"], {})
    with pytest.raises(SettingError, match="No model is named"):
        contenders([], {})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{}[gian=1]"], "has no option `gian`. Did you mean `gain`?"),
        (["{}", "--set", "gian=1"], "has no option `gian`. Did you mean `gain`?"),
        (["{}", "--set", "gain"], "`--set` takes KEY=VALUE, such as"),
        (["{}", "--set", "gain=1", "--set", "gain=2"], "`--set gain=...` is given twice"),
        (["{}", "--data-root", "mvtec=."], "`--data-root` is given twice for `mvtec`: `."),
        (["{}", "--gpus", "1"], "`--gpus 1` is for workers of a Ray cluster"),
        (["{}", "--cores", "2"], "`--cores 2` is for workers of a Ray cluster"),
        (["{}", "--jobs", "2", "--executor", "ray"], "`--jobs 2` is for processes here"),
        (["{}[gain"], "A model is NAME, or NAME[KEY=VALUE] with options of its own"),
        ([","], "No model is named"),
    ],
)
def test_the_command_refuses_before_torch_loads(
    run_ad, mean_picture, roots, tmp_path, monkeypatch, words, said
):
    monkeypatch.setattr("ad.core.cli.console.loading", None)  # what comes after the check
    model, *rest = (word.format(mean_picture) for word in words)
    where = ("--data-root", roots, "--output", tmp_path / "out")
    status, _, err = run_ad("bench", "mvtec", "toy", model, *rest, *where)
    assert status == 1
    assert said in err
    assert not (tmp_path / "out").exists()
