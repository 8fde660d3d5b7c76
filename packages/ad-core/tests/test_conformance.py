import contextlib
import dataclasses
import json
import random
import socket
import sys
import time
import types
import warnings
from typing import Annotated, ClassVar

import pytest
import torch

from ad.core import ModelRegistry, ModelSpec
from ad.core.cli import main
from ad.core.detector import Detector, Prediction, learned_buffer
from ad.core.errors import SettingError, UnknownNameError
from ad.core.options import Field
from ad.core.testing import check_model, entries, run_checks
from ad.core.testing.conformance import CHECKS
from ad.core.testing.exporting import check_export
from ad.core.testing.linear_student import LinearStudentTrainer
from ad.core.testing.subject import Model
from ad.core.trainer import OnePassTrainer

TRAIN = {"num_epochs": 1, "batch_size": 4, "img_size": 64, "normalize": False}


def test_a_model_that_keeps_its_promises_passes(mean_picture):
    check_model(mean_picture)


@pytest.fixture
def linear_student():
    ModelRegistry.register(
        "linear-student", "ad.core.testing.linear_student:LinearStudentTrainer", {}, TRAIN
    )
    yield "linear-student"
    ModelRegistry.unregister("linear-student")


def test_so_does_one_that_learns_by_gradient(linear_student):
    results = run_checks(linear_student)
    assert [result.id for result in results] == list(CHECKS)
    assert {result.id: result.outcome for result in results} == {
        **dict.fromkeys(CHECKS, "passed"),
        **dict.fromkeys(("catalogue", "folds"), "skipped"),
    }
    assert "registered at run time" in results[0].message
    assert all(result.seconds >= 0 for result in results)


class BrokenDetector(Detector):
    """Right but for one fault."""

    fault: ClassVar[str] = ""

    def __init__(self):
        super().__init__()
        learned_buffer(self, "mean")
        self.register_buffer("asked", torch.zeros(1))
        self.gain = torch.nn.Parameter(torch.ones(1))
        self.secret = torch.zeros(1)
        if self.fault == "export of a part of a taken name":
            self.code = torch.nn.Identity()

    def forward(self, images):
        if self.fault == "unfitted and unasked":
            images.view(-1, 7)
        if self.fault == "unfitted" and self.mean.numel() == 0:
            return Prediction(torch.zeros(len(images)), None)
        self.require_fitted()
        map_ = (images - self.mean).abs().amax(dim=1)
        score = map_.amax(dim=(1, 2))
        if self.fault == "batch":
            score = score / score.max()
        if self.fault == "shape":
            score = score[:, None]
        if self.fault == "type":
            score = score.double()
        if self.fault == "finite":
            score = score * float("nan")
        if self.fault == "map":
            map_ = map_[:, ::2]
        if self.fault == "elsewhere":
            map_ = map_.roll(32, dims=1)
        if self.fault == "no map":
            map_ = None
        if images.shape[2] != images.shape[3]:
            if self.fault == "turned":
                map_ = map_.transpose(1, 2)
            if self.fault == "garbled":
                map_ = map_.transpose(1, 2).reshape(map_.shape)
            if self.fault == "wide and infinite":
                score = score / 0
            if self.fault == "wide and odd":
                map_ = map_ * torch.nan
        if self.fault == "random":
            score = score + torch.rand(1)
        if self.fault == "unsaved":
            score = score + self.secret
        if self.fault == "blind":
            score = -score
        if self.fault == "keeps a gradient without a graph":
            score = score.detach().requires_grad_()
        if self.fault == "writes into pictures":
            images.clamp_(0.1, 0.9)
        if self.fault == "another each time":
            self.times = getattr(self, "times", 0) + 1
            score = score * self.times
        if self.fault == "export of distances":
            score = score + 0 * torch.cdist(images.flatten(1), self.mean.flatten()[None])[:, 0]
        if self.fault == "tuple":
            return score, map_
        if self.fault == "gradient":
            with torch.enable_grad():
                score = score * self.gain.requires_grad_()
        if self.fault == "state":
            self.asked += 1
        if self.fault == "export" and len(images):
            score = score * 2 if score.max() > 0.5 else score
        if self.fault == "export differs" and torch.compiler.is_compiling():
            score = score + 1
        if self.fault == "export of two":
            score = score + torch.zeros(len(images))
        if self.fault == "export of autocast":
            with torch.autocast(images.device.type, torch.bfloat16):
                nothing = images.flatten(1) @ torch.zeros(images.shape[1:].numel(), 1)
            score = score + nothing[:, 0]
        if self.fault == "export of half":
            score = score + score.half().mul(0).float()
        if self.fault == "export of a part":
            map_[:, :8] *= 1
        if self.fault == "export of rows":
            rows = torch.tensor([0, 8])
            map_[:, rows] = map_[:, rows]
        if self.fault == "export of a part of a view":
            map_.unflatten(1, (2, -1)).select(1, 0).mT.mul_(1)
        if torch.compiler.is_exporting():
            if self.fault == "export of one":
                score = score.amax().expand(2)
            if self.fault == "export of a ratio":
                score = score * (images.shape[0] / 2)
            if self.fault == "export of a second":
                score = score + 0 * images[1].sum()
            if self.fault == "export of another map":
                map_ = map_ + 1
        if self.fault == "training":
            self.train()
        if self.fault == "threads":
            self.kept = score
            time.sleep(0.05)
            score = self.kept
        if self.fault == "flagged":
            score = score.nan_to_num()
        if self.fault == "empty" and not len(images):
            score = torch.zeros(1)
        if self.fault == "memory":
            self.kept = [*getattr(self, "kept", []), score]
        if self.fault == "raises":
            msg = "out of ideas"
            raise RuntimeError(msg)
        return Prediction(score=score, map=map_)


class BrokenTrainer(OnePassTrainer):
    def __init__(self, setup, *, names: tuple[str, ...] = ("a",)):
        super().__init__(setup)
        self.detector = BrokenDetector()
        self.rows = []

    def observe(self, images):
        self.rows.append(images)

    def conclude(self):
        fault = BrokenDetector.fault
        if fault == "prints":
            print("learning ...")
        if fault == "warns":
            warnings.warn("low on pictures", stacklevel=1)
        if fault == "network":
            with socket.socket() as connection:
                connection.connect(("192.0.2.1", 80))
        if fault == "network in secret":
            with contextlib.suppress(OSError):
                socket.getaddrinfo("example.org", 80)
        self.detector.mean = torch.cat(self.rows).mean(dim=0)
        if fault == "late":
            self.detector.register_buffer("late", torch.zeros(1))
        self.detector.secret = self.detector.mean.sum()[None]
        if fault == "ragged" and len(self.rows[-1]) == 1:
            self.detector.mean = self.detector.mean * torch.nan
        if fault == "unrepeatable":
            self.detector.mean = self.detector.mean + 0.01 * random.random()


@pytest.fixture
def broken(monkeypatch):
    ModelRegistry.register("broken", "ad.core.nowhere:Broken", {}, TRAIN)
    monkeypatch.setattr("ad.core.testing.subject.load_trainer", lambda spec: BrokenTrainer)
    yield "broken"
    ModelRegistry.unregister("broken")


HERE = r" \(`test_conformance.py`, line \d+, in `forward`\)"

FAULTS = [
    ("unfitted", "unfitted", "must raise `NotFittedError`: .*`trained_flag.self.` where that is"),
    ("unfitted and unasked", "unfitted", rf"`NotFittedError`.*; it raises RuntimeError: .*{HERE}"),
    ("raises", "learns", f"RuntimeError: out of ideas{HERE}"),
    ("network", "learns", r"OSError: .*must learn and predict offline.*192\.0\.2\.1"),
    ("network in secret", "offline", "must not use the network; it wanted example.org"),
    ("prints", "quiet", "must print nothing; 'learning ...\\\\n'"),
    ("warns", "quiet", "must not warn; UserWarning: low on pictures"),
    ("tuple", "prediction", r"must return `Prediction\(score=.*; it returns a `tuple`"),
    ("shape", "prediction", r"one value per image, \[8\]; got \[8, 1\]"),
    ("type", "prediction", "`score` must be float32"),
    ("finite", "prediction", "`score` must be finite"),
    ("map", "prediction", r"one value per input pixel, \[8, 64, 64\]; got \[8, 32, 64\]"),
    (
        "no map",
        "prediction",
        "must say if there are maps: it is True and `map` is None; .* `localises = False` in",
    ),
    ("gradient", "prediction", "must not keep gradients"),
    ("keeps a gradient without a graph", "prediction", "must not keep gradients"),
    ("writes into pictures", "state", "must leave the pictures as they are: write nothing into"),
    ("another each time", "state", "the same pictures must get the same scores each time"),
    ("state", "state", "must change nothing in the detector; it changes asked"),
    ("training", "state", "must be in eval mode and stay so; it is not"),
    ("batch", "batch", "must not depend on the other images"),
    ("empty", "empty", "no pictures must get no scores"),
    ("ragged", "ragged", "after a last batch of one picture scores must be finite"),
    ("memory", "memory", r"prediction must keep nothing: each time .* memory, \d"),
    ("threads", "threads", "two threads that predict at once must get the scores"),
    ("flagged", "flagged", r"values that are not finite must get an error .*; got \d"),
    ("random", "randomness", "random generator alone"),
    ("unrepeatable", "repeatable", "equal seeds and pictures"),
    ("late", "saved", "must be there before fitting: `late` is not; register it in"),
    ("unsaved", "saved", "saved and loaded model must score the same"),
    ("export", "exportable", f"operations that torch can export: .*{HERE}; .* depend on values"),
    ("export differs", "exportable", "an exported model must score the same"),
    ("export of another map", "exportable", "an exported model must score the same"),
    (
        "export of two",
        "exportable",
        f"as `images.shape.0.`, never by `len` or `int`.*{HERE}",
    ),
    ("export of distances", "exportable", f"`torch.cdist` has without `compute_mode`{HERE}"),
    ("export of a part of a taken name", "exportable", "may be named `code`, .*: rename it"),
    ("export of one", "exportable", "must leave the number of pictures open"),
    (
        "export of a ratio",
        "exportable",
        r"from 2 pictures, it must score 1 .*once, when it is \S+$",
    ),
    ("export of a second", "exportable", r"it must score 1 .*\(.*out of range.*\)"),
    ("export of autocast", "exportable", "must compute in float32 .*; autocast is on"),
    ("export of half", "exportable", "must compute in float32 .*; `mul` is in float16"),
    ("export of a part", "exportable", "not write into a part .*: put parts together with"),
    ("export of a part of a view", "exportable", "must not write into a part of a tensor"),
    ("export of rows", "exportable", "must not write into a part of a tensor"),
    ("blind", "separates", "must score higher than good pictures"),
    ("elsewhere", "place", "must be higher on a blatant defect"),
    ("turned", "rectangle", r"of 64 x 96 \(height x width\) must be .*; got \[8, 96, 64\]"),
    ("garbled", "rectangle", "a defect must change the map where it is, not elsewhere"),
    ("wide and infinite", "rectangle", "scores of pictures of 64 x 96 .* must be finite"),
    ("wide and odd", "rectangle", "maps of pictures of 64 x 96 .* must be finite"),
]


@pytest.mark.parametrize(("fault", "identifier", "words"), FAULTS, ids=[one[0] for one in FAULTS])
def test_a_broken_promise_is_named(broken, monkeypatch, fault, identifier, words):
    monkeypatch.setattr(BrokenDetector, "fault", fault)
    with pytest.raises(AssertionError, match=f"`broken` fails `{identifier}`: .*{words}"):
        check_model(broken)


class HalfBankDetector(Detector):
    """Does what exports well: writes into whole tensors, keeps rows in float16, leaves autocast."""

    def __init__(self):
        super().__init__()
        self.register_buffer("bank", torch.linspace(0, 1, 8).half()[:, None])

    def forward(self, images):
        map_ = images.mean(1)
        map_.flatten(1).mul_(8).clamp_(0, 7)
        with torch.autocast(images.device.type, enabled=False):
            map_ = map_ - self.bank[map_.long()].float()[..., 0]
        return Prediction(map_.abs().amax(dim=(1, 2)), map_.abs())


def test_what_exports_well_is_no_fault():
    check_export(HalfBankDetector().eval(), torch.rand(3, 3, 16, 16), 1e-6, __name__)


@pytest.mark.parametrize(
    ("default", "words"),
    [({"a"}, "TypeError: .*not JSON serializable"), (["a"], "come back from it")],
)
def test_options_must_be_what_json_brings_back(broken, monkeypatch, default, words):
    monkeypatch.setitem(BrokenTrainer.__init__.__kwdefaults__, "names", default)
    with pytest.raises(AssertionError, match=f"fails `options`: .*{words}"):
        check_model(broken)


class SquareTrainer(BrokenTrainer):
    def __init__(self, setup):
        super().__init__(setup)
        if setup.img_size.height != setup.img_size.width:
            msg = f"squares alone; got {setup.img_size}"
            raise SettingError(msg)


def test_a_model_may_refuse_rectangles_in_words(broken, monkeypatch):
    monkeypatch.setattr("ad.core.testing.subject.load_trainer", lambda spec: SquareTrainer)
    rectangle = {result.id: result for result in run_checks(broken)}["rectangle"]
    assert rectangle.outcome == "skipped"
    words = "it takes no pictures of 64 x 96 (height x width): squares alone; got 64 x 96"
    assert rectangle.message.startswith(words)


class EndlessTrainer(BrokenTrainer):
    def __init__(self, setup, *, width: Annotated[int, Field(ge=1)] = 8):
        super().__init__(setup)


class EndlessSidesTrainer(BrokenTrainer):
    def __init__(self, setup, *, sides: tuple[int, int] = (2, 2)):
        super().__init__(setup)


class BareTrainer(BrokenTrainer):
    def __init__(self, setup, *, width=8):
        super().__init__(setup)


class EndlessListTrainer(BrokenTrainer):
    def __init__(self, setup, *, sides: tuple[int, ...] = ()):
        super().__init__(setup)


class SeedingTrainer(BrokenTrainer):
    def __init__(self, setup):
        torch.manual_seed(setup.seed)
        super().__init__(setup)


def test_a_constructor_that_seeds_the_global_generator_is_noticed_and_undone(broken, monkeypatch):
    monkeypatch.setattr("ad.core.testing.subject.load_trainer", lambda spec: SeedingTrainer)
    torch.manual_seed(0)  # where such a constructor leaves it
    with pytest.raises(AssertionError, match="fails `randomness`: .*random generator alone"):
        check_model(broken)


class NoDetectorTrainer(BrokenTrainer):
    def __init__(self, setup):
        super().__init__(setup)
        del self.detector


class NoSetupTrainer(BrokenTrainer):
    def __init__(self, setup):
        self.detector = BrokenDetector()


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        (
            NoDetectorTrainer,
            "`NoDetectorTrainer.__init__` must set `self.detector` to a `Detector`",
        ),
        (
            NoSetupTrainer,
            r"`NoSetupTrainer.__init__` must begin with `super\(\).__init__\(setup\)`",
        ),
    ],
)
def test_a_trainer_must_be_whole(broken, monkeypatch, trainer, words):
    monkeypatch.setattr("ad.core.testing.subject.load_trainer", lambda spec: trainer)
    with pytest.raises(AssertionError, match=f"fails `unfitted`: PluginError: {words}"):
        check_model(broken)


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        (EndlessListTrainer, r"option `sides` must refuse \[10{18}\]: give it limits"),
        (BareTrainer, "option `width` must have an annotation, .*`width: Annotated.float, Field"),
        (EndlessTrainer, "option `width` must refuse 10{18}: give it limits, .*Field"),
        (EndlessSidesTrainer, r"option `sides` must refuse \[10{18}, 10{18}\]: give it limits"),
    ],
)
def test_options_must_have_limits(broken, monkeypatch, trainer, words):
    monkeypatch.setattr("ad.core.testing.subject.load_trainer", lambda spec: trainer)
    with pytest.raises(AssertionError, match=f"fails `options`: .*{words}"):
        check_model(broken)


class ForgetfulTrainer(LinearStudentTrainer):
    """Counts its steps, and tells no checkpoint; or draws from a generator that nobody seeds."""

    fault: ClassVar[str] = ""

    def __init__(self, setup):
        super().__init__(setup)
        self.taken = 0

    def losses(self, batch):
        self.taken += 1
        factor = self.taken if self.fault == "resume" else random.random()
        return {name: loss * factor for name, loss in super().losses(batch).items()}


@pytest.mark.parametrize(
    ("fault", "words"),
    [("resume", "killed and resumed must end as one"), ("repeatable", "equal seeds and pictures")],
)
def test_what_learning_must_not_forget_is_told_from_what_it_must_not_draw(
    linear_student, monkeypatch, fault, words
):
    monkeypatch.setattr("ad.core.testing.subject.load_trainer", lambda spec: ForgetfulTrainer)
    monkeypatch.setattr(ForgetfulTrainer, "fault", fault)
    outcomes = {one.id: one for one in run_checks(linear_student)}
    assert [one.id for one in outcomes.values() if one.outcome == "failed"] == [fault]
    assert words in outcomes[fault].message


def test_what_needs_a_broken_promise_is_not_tried(broken, monkeypatch):
    monkeypatch.setattr(BrokenDetector, "fault", "shape")
    outcomes = {one.id: (one.outcome, one.message) for one in run_checks(broken)}
    assert outcomes["prediction"][0] == "failed"
    assert outcomes["saved"] == ("skipped", "`prediction` failed, and this needs it")
    assert outcomes["quiet"][0] == "passed"


def test_a_failure_that_is_expected_is_none(broken, monkeypatch):
    monkeypatch.setattr(BrokenDetector, "fault", "blind")
    expected = {"separates": "the score is of another thing"}
    check_model(broken, expected_failures=expected)
    results = run_checks(broken, expected_failures=expected)
    (result,) = [one for one in results if one.outcome == "expected"]
    assert result.id == "separates"
    assert result.message.startswith("the score is of another thing (a blatant defect must score")


def test_an_expected_failure_that_passes_is_a_failure(mean_picture):
    words = r"fails `place`: it was expected to fail \(no idea\), and passes"
    with pytest.raises(AssertionError, match=words):
        check_model(mean_picture, expected_failures={"place": "no idea"})


def test_an_expected_failure_that_does_not_exist_is_refused(mean_picture):
    with pytest.raises(SettingError, match="no check `plaice` .*Did you mean `place`"):
        check_model(mean_picture, expected_failures={"plaice": "typed too fast"})


def test_the_catalogue_may_say_how_a_model_is_tried(linear_student, monkeypatch):
    def declare(**check):
        spec = ModelSpec(
            name=linear_student,
            trainer="ad.core.testing.linear_student:LinearStudentTrainer",
            model={},
            train=TRAIN,
            check=check,
        )
        monkeypatch.setitem(ModelRegistry._added, linear_student, spec)

    declare(img_size=32, options={"dropout": 0.5}, expected_failures={"place": "for a test"})
    with pytest.raises(AssertionError, match=r"`place`: it was expected to fail \(for a test\)"):
        check_model(linear_student)
    check_model(linear_student, expected_failures={})
    declare(size=32)
    with pytest.raises(SettingError, match="may have `expected_failures`, .*; got `size`"):
        check_model(linear_student)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"by_gradient": True}, "`by_gradient` must be False, as the trainer learns, or left out"),
        ({"tasks": ("classifies", "localises", "few")}, "`few-shot`, .* got `few`"),
        ({"tasks": ("classifies",)}, "`tasks` must say `localises` as the detector does"),
        ({}, None),
        ({"by_gradient": False}, None),
    ],
)
def test_what_a_catalogue_says_of_a_model_must_be_so(mean_picture, monkeypatch, given, words):
    facts = {"summary": "a mean", "tasks": ("classifies", "localises"), **given}
    spec = dataclasses.replace(ModelRegistry.get(mean_picture), **facts)
    monkeypatch.setattr(entries, "entry_points", lambda **_: [spec])  # as if it were installed
    imported = types.SimpleNamespace(returncode=0, stdout="\n\n")
    monkeypatch.setattr(entries.subprocess, "run", lambda *_, **__: imported)
    model = Model(spec, img_size=32, options={}, num_epochs=1)
    with contextlib.nullcontext() if words is None else pytest.raises(AssertionError, match=words):
        entries.check_catalogue(model)


def test_an_unknown_model_or_option_is_refused_before_anything_is_tried(mean_picture):
    with pytest.raises(UnknownNameError, match="No model named `mean-pictur` is installed"):
        check_model("mean-pictur")
    with pytest.raises(SettingError, match="has no option `gian`"):
        check_model(mean_picture, options={"gian": 2})


@pytest.fixture
def run_ad(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ad", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run


def test_the_command_prints_a_table(run_ad, mean_picture):
    status, out, err = run_ad("check", mean_picture, "--img-size", "32", "--set", "gain=2.0")
    assert status == 0
    assert all(identifier in out for identifier in CHECKS)
    assert "`mean-picture`: 3 skipped, 20 passed" in err


def test_the_command_prints_json_and_fails_if_a_promise_is_broken(run_ad, broken, monkeypatch):
    monkeypatch.setattr(BrokenDetector, "fault", "blind")
    status, out, _ = run_ad("check", broken, "--json")
    assert status == 1
    checks = {one["id"]: one for one in json.loads(out)["checks"]}
    assert list(checks) == list(CHECKS)
    assert checks["separates"]["outcome"] == "failed"
    assert set(checks["separates"]) == {"id", "outcome", "message", "seconds"}
