import pytest

from ad.core import ModelRegistry, ModelSpec
from ad.core.errors import AdError, PluginError, SettingError, UnknownNameError
from ad.core.registry import get_dataset, load_trainer

TRAIN = {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": False}
PATH = "ad.core.testing.mean_picture:MeanPictureTrainer"


class FakeDistribution:
    def __init__(self, name):
        self.name = name


class FakePoint:
    """An entry point of an installed distribution, without one."""

    def __init__(self, name, owner, loads):
        self.name, self.value, self.dist, self.loads = name, f"{owner}:X", None, loads
        self.dist = FakeDistribution(owner)

    def load(self):
        if isinstance(self.loads, Exception):
            raise self.loads
        return self.loads


@pytest.fixture
def installed(monkeypatch):
    """Replace the installed entry points by a list of fakes."""
    points = []

    def entry_points(group, name=None):
        return [point for point in points if name in (None, point.name)]

    monkeypatch.setattr("ad.core.registry.entry_points", entry_points)
    return points


@pytest.fixture(autouse=True)
def clean_registry():
    yield
    ModelRegistry.unregister("mine")


@pytest.mark.parametrize("path", [PATH, PATH.replace(":", ".")])
def test_four_arguments_register_a_model_at_run_time(path):
    ModelRegistry.register("mine", path, {"gain": 2.0}, TRAIN)
    assert "mine" in ModelRegistry.names()
    spec = ModelRegistry.get("mine")
    assert (spec.model, spec.train) == ({"gain": 2.0}, TRAIN)
    assert load_trainer(spec).__name__ == "MeanPictureTrainer"


def test_a_taken_name_is_refused():
    ModelRegistry.register("mine", PATH, {}, TRAIN)
    with pytest.raises(SettingError, match="The model name `mine` is taken"):
        ModelRegistry.register("mine", PATH, {}, TRAIN)


@pytest.mark.parametrize("name", ["", "a b", "../x"])
def test_a_malformed_name_is_refused(name):
    with pytest.raises(SettingError, match="name is letters, digits"):
        ModelRegistry.register(name, PATH, {}, TRAIN)


@pytest.mark.parametrize("path", ["nothing", "a:b:c", "a b:C", "os.system('x')"])
def test_a_malformed_trainer_path_is_refused(path):
    with pytest.raises(SettingError, match="must read `package.module:Class`"):
        ModelRegistry.register("mine", path, {}, TRAIN)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 3}, "unknown: `epochs`"),
        ({"batch_size": 0}, "`batch_size` of model `mine` must be a whole number from 1; got 0"),
        ({"batch_size": True}, "`batch_size` of model `mine` must be a whole number"),
        ({"normalize": 1}, "`normalize` of model `mine` must be True or False; got 1"),
    ],
)
def test_wrong_training_defaults_are_refused(change, words):
    with pytest.raises(SettingError, match=words):
        ModelRegistry.register("mine", PATH, {}, {**TRAIN, **change})


def test_missing_training_defaults_are_named():
    with pytest.raises(SettingError, match="missing: `img_size`, `normalize`"):
        ModelRegistry.register("mine", PATH, {}, {"num_epochs": 1, "batch_size": 4})


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("ad.core.nowhere:X", "cannot be imported"),
        ("ad.core.errors:Nothing", "cannot be imported"),
        ("ad.core.errors:AdError", "must be a subclass of `ad.core.Trainer`"),
    ],
)
def test_a_trainer_that_is_none_is_a_plugin_error(path, words):
    spec = ModelRegistry.register("mine", path, {}, TRAIN)
    with pytest.raises(PluginError, match=words):
        load_trainer(spec)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import ad\nraise RuntimeError('no licence')", r"no licence \(`%s.py`, line 2\)\Z"),
        ("def (:", r"SyntaxError: .*%s.py, line 1"),
        ("import %s_not_there", r"No module named '%s_not_there' \(`%s.py`, line 1\)"),
        ("from ad.core.errors import DataError\nraise DataError('own words')", r"\Aown words\Z"),
    ],
    ids=["raises", "syntax", "missing", "own error"],
)
def test_a_trainer_whose_module_raises_is_named_with_the_line(tmp_path, monkeypatch, text, words):
    name = f"broken_{len(text)}"  # one of its own: a process imports a name once
    (tmp_path / f"{name}.py").write_text(text.replace("%s", name))
    monkeypatch.syspath_prepend(tmp_path)
    spec = ModelRegistry.register("mine", f"{name}:X", {}, TRAIN)
    with pytest.raises(AdError, match=words.replace("%s", name)) as raised:
        load_trainer(spec)
    assert "own words" in str(raised.value) or f"`{name}:X` of model `mine`" in str(raised.value)


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        (
            {"tasks": "classifies"},
            r"`tasks` of model `mine` must be texts in a tuple, such as",
        ),
        ({"weights": (1,)}, r"`weights` of model `mine` must be texts in a tuple.*; got \(1,\)"),
        (
            {"trainer": "a.b.C"},
            "`trainer` of model `mine` must be `package.module:Class`; got 'a.b",
        ),
        ({"trainer": None}, "`trainer` of .* must be `package.module:Class`; got None"),
        ({"summary": 3}, "`summary` of model `mine` must be a line of text; got 3"),
        ({"by_gradient": "no"}, "`by_gradient` of .* must be True, False or None; got 'no'"),
        ({"model": None}, "`model` of model `mine` must be a dict; got None"),
        ({"train": 3}, "`train` of model `mine` must be a dict; got 3"),
    ],
)
def test_facts_of_another_type_are_refused(fact, words):
    facts = {"name": "mine", "trainer": PATH, "model": {}, "train": TRAIN, **fact}
    with pytest.raises(SettingError, match=words):
        ModelSpec(**facts)


def test_an_unknown_model_is_told_the_nearest_name(installed):
    installed.append(FakePoint("patchcore", "ad-memory", None))
    with pytest.raises(UnknownNameError, match="Did you mean `patchcore`"):
        ModelRegistry.get("patchcor")


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("padim-resnet18", "ad-memory"),
        ("fastflow-resnet50", "ad-flow"),
        ("cfa", "ad-adapt"),
        ("dinomaly-base-392", "ad-foundation"),
    ],
)
def test_a_known_model_that_is_not_installed_is_told_its_package(installed, name, home):
    words = f"hint: `{home}` brings it; in a clone .*: pip install ./packages/{home}$"
    with pytest.raises(UnknownNameError, match=words):
        ModelRegistry.get(name)


def test_two_distributions_of_one_name_are_both_named(installed):
    installed += [FakePoint("x", "ad-one", None), FakePoint("x", "ad-two", None)]
    with pytest.raises(PluginError, match=r"more than one distribution: `ad-one`, `ad-two`"):
        ModelRegistry.get("x")


def test_a_broken_plugin_is_named_and_breaks_nothing_else(installed):
    good = ModelSpec(name="good", trainer=PATH, model={}, train=TRAIN)
    installed += [
        FakePoint("bad", "ad-bad", RuntimeError("no luck")),
        FakePoint("good", "ad-good", good),
    ]
    assert ModelRegistry.names() == ["bad", "good"]
    assert ModelRegistry.get("good").package == "ad-good"
    with pytest.raises(PluginError, match=r"`bad` .* of `ad-bad`.*RuntimeError: no luck"):
        ModelRegistry.get("bad")


def test_an_entry_point_must_name_its_own_spec(installed):
    other = ModelSpec(name="other", trainer=PATH, model={}, train=TRAIN)
    installed.append(FakePoint("good", "ad-good", other))
    words = "must be a `ModelSpec` named `good`, or one with `good` among its `aliases`; .* `other`"
    with pytest.raises(PluginError, match=words):
        ModelRegistry.get("good")


def test_an_alias_stands_for_the_entry_that_it_names(installed):
    whole = ModelSpec(name="whole", aliases=("short",), trainer=PATH, model={}, train=TRAIN)
    installed += [FakePoint("whole", "ad-whole", whole), FakePoint("short", "ad-whole", whole)]
    assert ModelRegistry.get("short") is ModelRegistry.get("whole") is whole
    assert ModelRegistry.names() == ["short", "whole"]


@pytest.mark.parametrize("aliases", ["short", ("mine",)])
def test_aliases_that_are_none_are_refused(aliases):
    with pytest.raises(SettingError, match="`aliases` of model `mine` must be other names"):
        ModelSpec(name="mine", aliases=aliases, trainer=PATH, model={}, train=TRAIN)


def test_a_variant_is_its_sibling_but_for_what_is_said():
    facts = {"year": 2020, "tasks": ("classifies",), "paper_budget": {"num_epochs": 9}}
    own = {"aliases": ("short",), "check": {"img_size": 96}}
    model, train = {"gain": 1.0, "width": 8}, {**TRAIN, "num_epochs": 7}
    first = ModelSpec(name="mine", trainer=PATH, model=model, train=train, **facts, **own)
    other = first.variant("yours", summary="smaller", model={"gain": 2.0}, train={"batch_size": 2})
    assert other == ModelSpec(
        name="yours",
        summary="smaller",
        trainer=PATH,
        model={"gain": 2.0, "width": 8},
        train={**train, "batch_size": 2},
        **facts,
    )
    assert first.variant("theirs", summary="", year=2021, check={"num_epochs": 3}).year == 2021
    assert (first.model, first.train) == (model, train)


def test_an_unknown_dataset_is_told_what_there_is():
    with pytest.raises(UnknownNameError, match="Did you mean `mvtec`"):
        get_dataset("mvtecs")


def test_an_entry_point_that_is_no_dataset_is_refused(installed):
    installed.append(FakePoint("mine", "ad-mine", object()))
    with pytest.raises(PluginError, match="must be a `DatasetSpec`"):
        get_dataset("mine")
