"""What every model must promise, as code that anybody can run on a model of their own.

It lives in the library, not under tests/, so that models of others can be checked too: by
`check_model` in a test, by ``ad check NAME`` at the command line.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, NoReturn, final

import torch
from torch import Tensor

from ad.core.callbacks import Callback, LoopState
from ad.core.checkpoints import Checkpoints
from ad.core.data.batches import PictureSet, Source, to_device
from ad.core.detector import Detector, Prediction
from ad.core.errors import NotFittedError, SettingError, listed, nearest
from ad.core.files import load_tensors, read_model, save_model
from ad.core.loop import fit
from ad.core.progress import SILENT, Progress
from ad.core.registry import MODELS, ModelRegistry, ModelSpec, load_trainer
from ad.core.settings import resolve_options
from ad.core.testing.pictures import make_picture
from ad.core.trainer import FROM_MODEL_FILE, GradientTrainer, Setup, Trainer

TOLERANCE = 1e-4
"""Largest relative difference that the size of a batch, or exporting, may make."""

IMG_SIZE = 64
"""Side of the pictures, in pixels, unless the model's catalogue says otherwise."""

EPOCHS = 20
"""For models that learn by gradient: enough to see a blatant defect, not enough to be good."""

_TASKS = {"classifies", "localises", "few-shot", "zero-shot", "supervised"}
_HEAVY = ("torch", "timm", "scipy", "faiss", "sklearn")
_KEYS = ("img_size", "num_epochs", "options", "expected_failures")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """How a model did in one check."""

    id: str
    """Which one; the names stay, so that they can be referred to."""
    outcome: Literal["passed", "failed", "expected", "skipped"]
    """``expected``: it failed, as its author said; ``skipped``: it does not apply, or what it
    needs failed."""
    message: str
    """The promise that was broken, why that was expected, or why it was not checked."""
    seconds: float
    """How long it took."""


def check_model(
    name: str,
    *,
    img_size: int | None = None,
    options: Mapping[str, Any] | None = None,
    num_epochs: int | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> None:
    """Train a model on tiny pictures, offline, and check what every detector promises.

    Args:
        name: Registry name.
        img_size: Side of the pictures, in pixels.
        options: Options other than the catalogue's, to make it small.
        num_epochs: How long a model that learns by gradient may learn until it must see a
            blatant defect; most need a tenth of that.
        expected_failures: Ids of checks that are known to fail, with the reason; that such a one
            passes is a failure. What is left out here is as `ModelSpec.check` says.

    Raises:
        AssertionError: Naming the first promise that was broken.
    """
    for result in _results(name, img_size, options, num_epochs, expected_failures, SILENT):
        if result.outcome == "failed":
            msg = f"`{name}` fails `{result.id}`: {result.message}"
            raise AssertionError(msg)


def run_checks(
    name: str,
    *,
    img_size: int | None = None,
    options: Mapping[str, Any] | None = None,
    num_epochs: int | None = None,
    expected_failures: Mapping[str, str] | None = None,
    progress: Progress = SILENT,
) -> list[CheckResult]:
    """Run all checks of `check_model` and tell how each went.

    Args:
        name: As for `check_model`, and so are the others.
        img_size: Side of the pictures, in pixels.
        options: Options other than the catalogue's.
        num_epochs: How long to learn at most.
        expected_failures: Ids of checks that are known to fail, with the reason.
        progress: Where to show how far it is.

    Returns:
        One result per check, in the order of `CHECKS`.

    Raises:
        SettingError: If an option, or the id of an expected failure, does not exist.
        UnknownNameError: If nothing provides the model.
    """
    return list(_results(name, img_size, options, num_epochs, expected_failures, progress))


def _results(
    name: str,
    img_size: int | None,
    options: Mapping[str, Any] | None,
    num_epochs: int | None,
    expected_failures: Mapping[str, str] | None,
    progress: Progress,
) -> Iterator[CheckResult]:
    spec = ModelRegistry.get(name)
    declared = dict(spec.check)
    if wrong := set(declared) - set(_KEYS):
        msg = f"`check` of model `{name}` may have {listed(_KEYS)}; got {listed(wrong)}."
        raise SettingError(msg)
    given = {
        "img_size": img_size,
        "num_epochs": num_epochs,
        "options": options,
        "expected_failures": expected_failures,
    }
    declared |= {key: value for key, value in given.items() if value is not None}
    expected = dict(declared.get("expected_failures", {}))
    for identifier in expected:
        if identifier not in CHECKS:
            msg = (
                f"There is no check `{identifier}` that could be expected to fail."
                f"{nearest(identifier, CHECKS)} There are {listed(CHECKS)}."
            )
            raise SettingError(msg)
    model = _Model(
        spec,
        img_size=declared.get("img_size", IMG_SIZE),
        options=declared.get("options", {}),
        num_epochs=declared.get("num_epochs", EPOCHS),
    )
    unusable: set[str] = set()
    with progress.step("checking", total=len(CHECKS), unit="promises") as advance:
        for identifier, check in CHECKS.items():
            result = _result(identifier, check, model, expected.get(identifier), unusable)
            if result.outcome in ("failed", "expected"):
                unusable.add(identifier)
            yield result
            advance(1)


def _result(
    identifier: str, check: _Check, model: _Model, expected: str | None, unusable: set[str]
) -> CheckResult:
    outcome: Literal["passed", "failed", "expected", "skipped"] = "passed"
    message = ""
    started = time.perf_counter()
    try:
        if missing := [one for one in check.needs if one in unusable]:
            msg = f"`{missing[0]}` failed, and this needs it"
            raise _NotApplicable(msg)
        check.run(model)
    except _NotApplicable as reason:
        outcome, message = "skipped", str(reason)
    except Exception as error:  # a model may raise anything
        broken = isinstance(error, AssertionError)
        said = str(error) if broken else f"{type(error).__name__}: {error}"
        outcome, message = ("expected", f"{expected} ({said})") if expected else ("failed", said)
    else:
        if expected:
            outcome = "failed"
            message = f"it was expected to fail ({expected}), and passes: take that back"
    seconds = time.perf_counter() - started
    return CheckResult(id=identifier, outcome=outcome, message=message, seconds=seconds)


class _NotApplicable(Exception):
    """Why a check says nothing of a model."""


@dataclass(frozen=True, slots=True)
class _Check:
    run: Callable[[_Model], None]
    needs: tuple[str, ...] = ()
    """Checks without whose success it cannot be run."""


@final
class _Model:
    """A model, tiny pictures, and what it learnt of them."""

    def __init__(
        self, spec: ModelSpec, *, img_size: int, options: Mapping[str, Any], num_epochs: int
    ) -> None:
        self.spec = spec
        self.trainer_class = load_trainer(spec)
        self.options = resolve_options(spec, self.trainer_class, options)
        self.img_size = img_size
        self.by_gradient = issubclass(self.trainer_class, GradientTrainer)
        # Most see a blatant defect after a few epochs, and need not go on.
        shorter = (math.ceil(num_epochs / 10), math.ceil(num_epochs / 3), num_epochs)
        self.epochs = sorted({*shorter}) if self.by_gradient else [1]
        self.good = [make_picture(index, size=img_size)[0] for index in range(12)]
        self.fresh = [make_picture(100 + index, size=img_size)[0] for index in range(4)]
        self.bad, self.masks = zip(
            *(make_picture(200 + index, size=img_size, defect=True) for index in range(4)),
            strict=True,
        )
        self.images = self.images_of([*self.fresh, *self.bad])
        self.seen = _Seen()

    def images_of(self, pictures: Sequence[Source]) -> Tensor:
        """Pictures as a detector takes them."""
        (batch,) = PictureSet(pictures, self.img_size).batches(len(pictures))
        return to_device(batch.pictures, torch.device("cpu"))

    def build(self, weights: str = "random", num_epochs: int = 1) -> Trainer:
        """A fresh trainer."""
        setup = Setup(
            img_size=self.img_size,
            normalize=self.spec.train["normalize"],
            num_epochs=num_epochs,
            batch_size=4,
            weights=weights,
        )
        return self.trainer_class(setup, **self.options)

    def learn(
        self,
        num_epochs: int,
        checkpoints: Checkpoints | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Detector:
        """A detector that has learnt from the good pictures."""
        trainer = self.build(num_epochs=num_epochs)
        pictures = PictureSet(self.good, self.img_size)
        fit(trainer, pictures, checkpoints=checkpoints, callbacks=callbacks)
        return trainer.detector

    @cached_property
    def detector(self) -> Detector:
        """One that has learnt for the shortest time."""
        with self.seen.watching():
            return self.learn(self.epochs[0])

    @cached_property
    def whole(self) -> Prediction:
        """What it says of all test pictures at once."""
        with self.seen.watching():
            return _predict(self.detector, self.images)

    @cached_property
    def again(self) -> Tensor:
        """Scores after learning the same once more."""
        return _predict(self.learn(self.epochs[0]), self.images).score

    @cached_property
    def resumed(self) -> Tensor:
        """Scores after learning the same, killed in the second step and resumed."""
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            with contextlib.suppress(_Killed):
                every_step = Checkpoints(home, every_seconds=0)
                detector = self.learn(self.epochs[0], every_step, [_Kill()])
                return _predict(detector, self.images).score  # it takes no steps
            later = Checkpoints(home, every_seconds=math.inf)
            return _predict(self.learn(self.epochs[0], later), self.images).score

    @cached_property
    def able(self) -> tuple[Detector, Prediction]:
        """One that sees a blatant defect, or has learnt for as long as is allowed."""
        for num_epochs in self.epochs:
            first = num_epochs == self.epochs[0]
            detector = self.detector if first else self.learn(num_epochs)
            whole = self.whole if first else _predict(detector, self.images)
            if self.sees(detector, whole) and self.finds(whole):
                break
        return detector, whole

    def sees(self, detector: Detector, whole: Prediction) -> bool:
        """Whether defects score higher than good pictures."""
        good, bad = whole.score[:4], whole.score[4:]
        if whole.map is None:
            # Who judges pictures as a whole need not see a small spot, but another product.
            bad = _predict(detector, self.images_of([255 - one for one in self.fresh])).score
        return bool(bad.median() > good.max())

    def finds(self, whole: Prediction) -> bool:
        """Whether maps are higher on defects than beside them."""
        return whole.map is None or all(
            bool(map_[mask].mean() > map_[~mask].mean())
            for map_, mask in zip(whole.map[4:], map(torch.from_numpy, self.masks), strict=True)
        )


class _Killed(Exception):
    """In place of SIGKILL."""


class _Kill(Callback):
    """Dies after the second step, of which no checkpoint was saved yet."""

    def on_batch_end(self, state: LoopState) -> None:
        if state.step == 2:
            raise _Killed


class _Seen:
    """What a model did beside learning and predicting."""

    def __init__(self) -> None:
        self.random = False  # moved torch's global generator
        self.addresses: list[str] = []
        self.warnings: list[str] = []
        self.printed = ""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Take note, and let nothing out."""
        before = torch.random.get_rng_state()
        connect, look_up = socket.socket.connect, socket.getaddrinfo
        out = io.StringIO()

        def refuse(address: object) -> NoReturn:
            self.addresses.append(str(address))
            msg = f"a model must learn and predict offline; it wants to reach {address}"
            raise OSError(msg)

        def refuse_connection(own: socket.socket, address: Any) -> None:  # noqa: ANN401
            if own.family not in (socket.AF_INET, socket.AF_INET6):
                connect(own, address)
            else:
                refuse(address)

        def refuse_name(host: object, *rest: object, **more: object) -> NoReturn:
            refuse(host)

        socket.socket.connect = refuse_connection  # type: ignore[method-assign,assignment]
        socket.getaddrinfo = refuse_name
        try:
            with (
                warnings.catch_warnings(record=True) as caught,
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(out),
            ):
                warnings.simplefilter("always")
                yield
        finally:
            socket.socket.connect = connect  # type: ignore[method-assign]
            socket.getaddrinfo = look_up
            self.warnings += [f"{one.category.__name__}: {one.message}" for one in caught]
            self.printed += out.getvalue()
            self.random |= not torch.equal(before, torch.random.get_rng_state())


def _predict(detector: Detector, images: Tensor) -> Prediction:
    with torch.inference_mode():
        prediction: Prediction = detector(images)
    return prediction


# Run in a process of its own, where nothing has been imported.
_PROBE = """
import os, sys
before = dict(os.environ)
from ad.core import ModelRegistry
spec = ModelRegistry.get(sys.argv[1])
print(*sorted(set(sys.argv[2:]) & set(sys.modules)), sep=", ")
print("environment" if before != dict(os.environ) else "")
"""


def _check_catalogue(model: _Model) -> None:
    spec = model.spec
    if not entry_points(group=MODELS, name=spec.name):
        msg = "it was registered at run time and has no entry point"
        raise _NotApplicable(msg)
    command = [sys.executable, "-c", _PROBE, spec.name, *_HEAVY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the catalogue cannot be imported alone: {done.stderr.strip()}"
    *said, heavy, changed = done.stdout.splitlines()
    assert not heavy, f"the catalogue must not import {heavy}: `ad models` reads it"
    assert not changed, "importing the catalogue must leave the environment alone"
    assert not said, f"importing the catalogue must print nothing; it prints {said[0]!r}"
    assert spec.summary, "the catalogue must say in one line what the model is (`summary`)"
    unknown = set(spec.tasks) - _TASKS
    assert not unknown, f"`tasks` must be some of {listed(_TASKS)}; got {listed(unknown)}"
    localises = model.build().detector.localises
    assert localises == ("localises" in spec.tasks), (
        f"`tasks` must say `localises` as the detector does; it says {localises}"
    )


def _check_options(model: _Model) -> None:
    # A saved model's configuration has them as JSON, and nothing else can be given by a user.
    text = json.dumps(model.options)
    back = resolve_options(model.spec, model.trainer_class, json.loads(text))
    assert back == model.options, "options must be what JSON can hold, and come back from it"


def _check_unfitted(model: _Model) -> None:
    try:
        _predict(model.build().detector, model.images)
    except NotFittedError:
        return
    msg = "a detector that has not been fitted must raise `NotFittedError`"
    raise AssertionError(msg)


def _check_learns(model: _Model) -> None:
    _ = model.whole


def _check_prediction(model: _Model) -> None:
    b, _, h, w = model.images.shape
    whole = model.whole
    assert whole.score.shape == (b,), "`score` must hold one value per image"
    assert whole.score.dtype == torch.float32, "`score` must be float32"
    assert whole.score.isfinite().all(), "`score` must be finite"
    localises = model.detector.localises
    assert (whole.map is not None) == localises, "`localises` must say if there are maps"
    if whole.map is not None:
        assert whole.map.shape == (b, h, w), "`map` must hold one value per input pixel"
        assert whole.map.dtype == torch.float32, "`map` must be float32"
        assert whole.map.isfinite().all(), "`map` must be finite"
    prediction = model.detector(model.images[:1])  # where gradients are not switched off
    assert not any(p.requires_grad for p in prediction if isinstance(p, Tensor)), (
        "prediction must not keep gradients"
    )


def _check_randomness(model: _Model) -> None:
    assert not model.seen.random, (
        "training and prediction must leave torch's global random generator alone"
    )


def _check_offline(model: _Model) -> None:
    assert not model.seen.addresses, (
        f"training and prediction must not use the network; it wanted {model.seen.addresses[0]}"
    )


def _check_quiet(model: _Model) -> None:
    seen = model.seen
    assert not seen.warnings, f"training and prediction must not warn; {seen.warnings[0]}"
    assert not seen.printed, f"training and prediction must print nothing; {seen.printed[:200]!r}"


def _check_state(model: _Model) -> None:
    before = {name: tensor.clone() for name, tensor in model.detector.state_dict().items()}
    _predict(model.detector, model.images)
    after = model.detector.state_dict()
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    assert not changed, f"prediction must change nothing in the detector; it changes {changed[0]}"


def _check_batch(model: _Model) -> None:
    images, whole = model.images, model.whole
    singles = [_predict(model.detector, image[None]) for image in images]
    alone = torch.cat([single.score for single in singles])
    assert torch.allclose(alone, whole.score, rtol=TOLERANCE, atol=TOLERANCE), (
        "a score must not depend on the other images of the batch"
    )
    turned = _predict(model.detector, images.flip(0)).score.flip(0)
    assert torch.allclose(turned, whole.score, rtol=TOLERANCE, atol=TOLERANCE), (
        "a score must not depend on an image's place in the batch"
    )


def _check_repeatable(model: _Model) -> None:
    # A run that was killed and resumed is one that was repeated; a third only if they differ.
    with contextlib.suppress(Exception):  # which `resume` is there to tell of
        if model.by_gradient and torch.equal(model.resumed, model.whole.score):
            return
    assert torch.equal(model.again, model.whole.score), (
        "equal seeds and pictures must give equal scores"
    )


def _check_resume(model: _Model) -> None:
    if not model.by_gradient:
        msg = "it learns in one pass: there is nothing to resume"
        raise _NotApplicable(msg)
    assert torch.equal(model.resumed, model.whole.score), (
        "a run that was killed and resumed must end as one that was not: keep all that learning "
        "changes in `modules`, and draw random numbers from the batch's generators"
    )


def _check_saved(model: _Model) -> None:
    blank = model.build(FROM_MODEL_FILE).detector
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "model"
        save_model(home, model.detector, {})
        load_tensors(blank, read_model(home)[0], home)
    loaded, whole = _predict(blank.eval(), model.images), model.whole
    assert torch.equal(loaded.score, whole.score), "a saved and loaded model must score the same"
    if whole.map is not None and loaded.map is not None:
        assert torch.equal(loaded.map, whole.map), "a saved and loaded model must map the same"


def _check_exportable(model: _Model) -> None:
    images = model.images[:1]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own
            exported = torch.export.export(model.detector, (images,), strict=False).module()
    except Exception as error:
        msg = (
            "`forward` must be made of operations that torch can export: "
            f"{str(error).strip().splitlines()[0]}"
        )
        raise AssertionError(msg) from error
    score = _predict(model.detector, images).score
    assert torch.allclose(exported(images)[0], score, rtol=TOLERANCE, atol=TOLERANCE), (
        "an exported model must score the same"
    )


def _check_separates(model: _Model) -> None:
    assert model.sees(*model.able), "a blatant defect must score higher than good pictures do"


def _check_place(model: _Model) -> None:
    if not model.detector.localises:
        msg = "it does not localise"
        raise _NotApplicable(msg)
    assert model.finds(model.able[1]), "the map must be higher on a blatant defect than beside it"


_LEARNT = ("learns", "prediction")

CHECKS: Mapping[str, _Check] = {
    "catalogue": _Check(_check_catalogue),
    "options": _Check(_check_options),
    "unfitted": _Check(_check_unfitted),
    "learns": _Check(_check_learns),
    "offline": _Check(_check_offline),
    "quiet": _Check(_check_quiet, ("learns",)),
    "prediction": _Check(_check_prediction, ("learns",)),
    "randomness": _Check(_check_randomness, ("learns",)),
    "state": _Check(_check_state, _LEARNT),
    "batch": _Check(_check_batch, _LEARNT),
    "repeatable": _Check(_check_repeatable, _LEARNT),
    "resume": _Check(_check_resume, (*_LEARNT, "repeatable")),
    "saved": _Check(_check_saved, _LEARNT),
    "exportable": _Check(_check_exportable, _LEARNT),
    "separates": _Check(_check_separates, _LEARNT),
    "place": _Check(_check_place, _LEARNT),
}
"""All checks by their ids, in the order in which they are run."""
