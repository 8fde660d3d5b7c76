"""Options are what their annotations say, however a trainer is constructed."""

import inspect
import math
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ad.core import ModelSpec
from ad.core.errors import PluginError, SettingError
from ad.core.options import Field, Layers, LearningRate, allowed_of, checked, options_of, renamed
from ad.core.settings import resolve_options
from ad.core.testing.linear_student import LinearStudentTrainer
from ad.core.trainer import OnePassTrainer, Setup
from ad.runtime.errors import shown

SETUP = Setup(img_size=16, normalize=False, weights="random")


class WidthTrainer(OnePassTrainer):
    """Keeps what it was given."""

    def __init__(
        self,
        setup: Setup,
        *,
        width: Annotated[int, Field(ge=1, le=64)] = 8,
        layers: Layers = ("a",),
        how: Literal["mean", "max"] = "mean",
        rate: LearningRate | None = None,
        size: tuple[int, int] = (8, 8),
        folder: str = "",
        anything=None,
    ) -> None:
        super().__init__(setup)
        self.width, self.layers, self.how, self.rate = width, layers, how, rate
        self.size, self.folder, self.anything = size, folder, anything

    def observe(self, features):
        pass

    def conclude(self):
        pass


class DeeperTrainer(WidthTrainer):
    """Has an option more, and gives the others on."""

    def __init__(self, setup: Setup, *, depth: Annotated[int, Field(ge=1, le=4)] = 1) -> None:
        super().__init__(setup, width=10 * depth)


class PlainTrainer(WidthTrainer):
    """Has no constructor of its own."""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"how": "Mean"}, r"Option `how` of `\w+`: input should be 'mean' or 'max'; got 'Mean'\."),
        ({"width": 0}, "Option `width` of .*: .* greater than or equal to 1; got 0"),
        ({"width": 65}, "less than or equal to 64; got 65"),
        ({"width": 8.0}, "valid integer; got 8.0"),
        ({"width": True}, "valid integer; got True"),
        ({"rate": math.nan}, "finite number; got nan"),
        ({"rate": math.inf}, "finite number; got inf"),
        ({"rate": -1}, "greater than 0; got -1"),
        ({"layers": ["x"] * 65}, r"at most 64 items after validation, not 65; got \['x', .*\.\.\."),
        ({"width": 10**5000}, "got a int too long to be shown"),
        ({"folder": {1, 2}}, "must be numbers, texts, lists of them or None; got {1, 2}"),
    ],
)
@pytest.mark.parametrize("trainer", [WidthTrainer, PlainTrainer])
def test_a_constructor_called_directly_refuses_what_is_not_allowed(trainer, options, words):
    with pytest.raises(SettingError, match=words):
        trainer(SETUP, **options)
    with pytest.raises(SettingError, match=words):
        trainer(setup=SETUP, **options)


def test_a_constructor_called_directly_gets_values_of_the_annotated_type():
    one = WidthTrainer(SETUP, layers=["a", "b"], rate=1, size=[4, 2], folder=Path("some/where"))
    assert (one.layers, one.rate, one.size, one.folder) == (("a", "b"), 1.0, (4, 2), "some/where")
    assert isinstance(one.rate, float)
    assert WidthTrainer(SETUP, layers="a, b").layers == ("a", "b")
    assert WidthTrainer(SETUP, anything=[1, {"a": None}]).anything == [1, {"a": None}]


def test_what_a_subclass_gives_on_is_checked_by_who_declares_it():
    assert DeeperTrainer(SETUP, depth=4).width == 40
    with pytest.raises(SettingError, match="`depth` of `DeeperTrainer`: .* equal to 4; got 9"):
        DeeperTrainer(SETUP, depth=9)

    class Reckless(WidthTrainer):
        def __init__(self, setup):
            super().__init__(setup, width=100)

    with pytest.raises(SettingError, match="`width` of `Reckless`: .* equal to 64; got 100"):
        Reckless(SETUP)


def test_a_checked_constructor_looks_as_it_was_written():
    names = list(inspect.signature(WidthTrainer).parameters)
    assert names == ["setup", "width", "layers", "how", "rate", "size", "folder", "anything"]
    assert list(options_of(WidthTrainer)) == names[1:]
    assert WidthTrainer.__init__.__kwdefaults__["width"] == 8
    with pytest.raises(TypeError, match="unexpected keyword argument 'wdith'"):
        WidthTrainer(SETUP, wdith=3)


def test_what_may_be_given_can_be_shown():
    assert allowed_of(WidthTrainer, "width") == ((), "[1, 64]")
    assert allowed_of(WidthTrainer, "how") == (("mean", "max"), "")
    assert allowed_of(WidthTrainer, "rate") == ((), "(0, 10]")
    assert allowed_of(WidthTrainer, "size") == ((), "")
    assert allowed_of(WidthTrainer, "anything") == ((), "")
    assert allowed_of(LinearStudentTrainer, "dropout") == ((), "[0, 1)")


def test_limits_on_one_side_are_shown_as_such():
    class OpenTrainer(WidthTrainer):
        def __init__(
            self,
            setup: Setup,
            *,
            least: Annotated[int, Field(ge=3)] = 3,
            most: Annotated[float, Field(lt=0.5)] = 0,
        ) -> None:
            super().__init__(setup)

    assert allowed_of(OpenTrainer, "least")[1] == "[3, inf)"
    assert allowed_of(OpenTrainer, "most")[1] == "(-inf, 0.5)"


def odd(**options):
    train = {"num_epochs": 1, "batch_size": 4, "img_size": 16, "normalize": False}
    return ModelSpec(name="odd", trainer="odd:OddTrainer", model=options, train=train)


def test_options_that_are_not_by_keyword_alone_are_the_author_s_fault():
    class LooseTrainer(WidthTrainer):
        def __init__(self, setup: Setup, width: int = 8, **others: int) -> None:
            super().__init__(setup)

    for name in ("width", "depth"):
        words = rf"`LooseTrainer.__init__` of model `odd` .* keyword .*setup: Setup, \*, {name}: "
        with pytest.raises(PluginError, match=words):
            resolve_options(odd(**{name: 3}), LooseTrainer, {})
    with pytest.raises(SettingError, match="Model `odd` has no option `wdith`. Did you mean"):
        resolve_options(odd(wdith=3), WidthTrainer, {})


def test_annotations_that_say_nothing_are_the_author_s_fault():
    class OddTrainer(WidthTrainer):
        def __init__(self, setup: Setup, *, helper: WidthTrainer | None = None) -> None:
            super().__init__(setup)

    with pytest.raises(PluginError, match="No value can be checked against .* Annotate it with"):
        OddTrainer(SETUP, helper=None)

    with pytest.raises(PluginError, match="Option `helper` of model `odd`: No value can be"):
        resolve_options(odd(helper=None), OddTrainer, {})

    class LostTrainer(WidthTrainer):
        def __init__(self, setup: Setup, *, width: "Missing" = 1) -> None:  # noqa: F821
            super().__init__(setup)

    with pytest.raises(PluginError, match="annotations of `.*LostTrainer.__init__` cannot be read"):
        LostTrainer(SETUP, width=1)


deep = []
for _ in range(10**5):
    deep = [deep]

NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([10**18, -(10**18), 1e-320, -0.0, 1e308, math.nan, -math.inf]),
)
VALUES = st.recursive(
    st.one_of(NUMBERS, st.booleans(), st.none(), st.text(), st.binary()),
    lambda some: st.one_of(
        st.lists(some), st.dictionaries(st.text() | st.integers() | st.tuples(st.text()), some)
    ),
    max_leaves=5,
)
HINTS = [
    Annotated[int, Field(ge=-3, le=64)],
    LearningRate,
    LearningRate | None,
    Layers,
    tuple[Annotated[int, Field(ge=1, le=4096)], Annotated[int, Field(ge=1, le=4096)]],
    tuple[LearningRate, ...],
    Literal["a", "b"],
    Annotated[Literal["a", "b"], renamed({"z": "a"})],
    bool,
    str,
]
# Without the addresses of functions, which differ from process to process.
each_hint = pytest.mark.parametrize(
    "hint", HINTS, ids=lambda hint: str(hint).partition(" at 0x")[0]
)


@each_hint
@given(value=VALUES)
def test_any_value_is_taken_within_limits_or_refused(hint, value):
    try:
        taken = checked(hint, value, "`x`")
    except SettingError:
        return
    for one in taken if isinstance(taken, tuple) else (taken,):
        assert isinstance(one, str | bool | None) or -3 <= one <= 4096
        assert not isinstance(one, float) or 0 < one <= 10


@each_hint
@pytest.mark.parametrize("value", [10**5000, deep, ["x"] * 10**4, "x" * 10**5], ids=type)
def test_a_value_too_long_for_json_or_an_error_is_refused(hint, value):
    if hint is str and isinstance(value, str):
        return
    with pytest.raises(SettingError) as refused:
        checked(hint, value, "`x`")
    assert len(str(refused.value)) < 1000


def test_a_value_by_its_old_name_is_taken_for_the_new_one():
    hint = Annotated[Literal["a", "b"], renamed({"z": "a"})]
    assert [checked(hint, value, "`x`") for value in ("z", "a", "b")] == ["a", "a", "b"]
    with pytest.raises(SettingError, match="`x`: input should be 'a' or 'b'; got 'y'"):
        checked(hint, "y", "`x`")

    class Renamed(WidthTrainer):
        def __init__(self, setup, *, which: hint = "a"):
            super().__init__(setup)
            self.which = which

    assert allowed_of(Renamed, "which") == (("a", "b"), "")
    assert Renamed(SETUP, which="z").which == "a"


def test_long_values_are_cut():
    assert shown([1] * 10**4).endswith("...")
    assert len(shown("x" * 10**6)) < 200
    assert shown(deep) == "a list too long to be shown"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--epochs", "many"], "'--epochs': input should be a valid integer; got 'many'."),
        (["--fit", "streched"], "'--fit': 'streched' is not one of 'stretch', 'pad', 'crop'."),
    ],
)
def test_the_command_says_what_was_given(run_ad, typed, words):
    status, _, err = run_ad("train", "folder", "x", "y", *typed)
    assert status == 2
    assert f"Invalid value for {words} " in " ".join(err.replace("│", " ").split())
