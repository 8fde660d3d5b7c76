"""What every model must promise: one function each, and `CHECKS`, the table of them all.

A function raises `AssertionError` with the promise as its message, or `NotApplicable`. Who runs
them, in what order and with what result is for `ad.core.testing.conformance` to tell.
"""

from __future__ import annotations

import contextlib
import gc
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ad.core.detector import wrong_prediction
from ad.core.errors import AdError, NotFittedError, SettingError, raised_at
from ad.core.saved.files import read_model, save_model
from ad.core.saved.loading import load_tensors
from ad.core.testing.check import Check, NotApplicable
from ad.core.testing.entries import check_catalogue, check_options
from ad.core.testing.exporting import check_export
from ad.core.testing.subject import Model, predict
from ad.core.trainer import FROM_MODEL_FILE, OnePassTrainer

TOLERANCE = 1e-4
"""Largest relative difference that the size of a batch, or exporting, may make."""


def _check_unfitted(model: Model) -> None:
    detector = model.build().detector
    said = ""
    try:
        predict(detector, model.images)
    except NotFittedError:
        return
    except Exception as error:  # a model may raise anything
        said = f"; it raises {type(error).__name__}: {error}{raised_at(error, model.module)}"
    msg = (
        "a detector that has not been fitted must raise `NotFittedError`: register what it learns "
        "by `learned_buffer`, or `trained_flag(self)` where that is parameters alone, and begin "
        f"`forward` with `self.require_fitted()`{said}"
    )
    raise AssertionError(msg)


def _check_learns(model: Model) -> None:
    _ = model.whole


def _check_prediction(model: Model) -> None:
    b, _, h, w = model.images.shape
    whole = model.whole
    localises = model.detector.localises
    wrong = wrong_prediction(whole, model.images, localises=localises)
    assert not wrong, wrong
    single = model.detector(model.images[:1].clone())  # where gradients are not switched off
    assert not any(p.requires_grad for p in (*whole, *single) if isinstance(p, Tensor)), (
        "prediction must not keep gradients"
    )
    assert whole.score.dtype == torch.float32, "`score` must be float32"
    assert whole.score.isfinite().all(), "`score` must be finite"
    if whole.map is not None:
        assert whole.map.dtype == torch.float32, "`map` must be float32"
        assert whole.map.isfinite().all(), "`map` must be finite"
    if model.detector.outlines:
        outline = model.detector.outline(model.images)
        assert outline.shape == (b, h, w), "`outline` must hold one value per input pixel"
        assert outline.dtype == torch.float32, "`outline` must be float32"
        assert outline.isfinite().all(), "`outline` must be finite"
        assert not outline.requires_grad, "`outline` must not keep gradients"


def _check_randomness(model: Model) -> None:
    assert not model.seen.random, (
        "training and prediction must leave torch's global random generator alone"
    )


def _check_offline(model: Model) -> None:
    assert not model.seen.addresses, (
        f"training and prediction must not use the network; it wanted {model.seen.addresses[0]}"
    )


def _check_quiet(model: Model) -> None:
    seen = model.seen
    assert not seen.warnings, f"training and prediction must not warn; {seen.warnings[0]}"
    assert not seen.printed, f"training and prediction must print nothing; {seen.printed[:200]!r}"


def _check_state(model: Model) -> None:
    before = {name: tensor.clone() for name, tensor in model.detector.state_dict().items()}
    given = model.images.clone()
    with torch.inference_mode():
        second = model.detector(given)
    assert torch.equal(given, model.images), (
        "prediction must leave the pictures as they are: write nothing into `images`, as "
        "`images -= mean` and `images.clamp_(...)` do"
    )
    after = model.detector.state_dict()
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    assert not changed, f"prediction must change nothing in the detector; it changes {changed[0]}"
    assert torch.allclose(second.score, model.whole.score, rtol=TOLERANCE, atol=TOLERANCE), (
        "the same pictures must get the same scores each time: draw nothing at random in "
        "`forward`, and go by nothing that an earlier batch left"
    )
    learning = [name or "it" for name, part in model.detector.named_modules() if part.training]
    assert not learning, f"a fitted detector must be in eval mode and stay so; {learning[0]} is not"


def _check_batch(model: Model) -> None:
    images, whole = model.images, model.whole
    singles = [predict(model.detector, image[None]) for image in images]
    alone = torch.cat([single.score for single in singles])
    assert torch.allclose(alone, whole.score, rtol=TOLERANCE, atol=TOLERANCE), (
        "a score must not depend on the other images of the batch"
    )
    turned = predict(model.detector, images.flip(0)).score.flip(0)
    assert torch.allclose(turned, whole.score, rtol=TOLERANCE, atol=TOLERANCE), (
        "a score must not depend on an image's place in the batch"
    )


def _check_empty(model: Model) -> None:
    images = model.images[:0]
    nothing = predict(model.detector, images)
    assert nothing.score.shape == (0,), "no pictures must get no scores"
    if nothing.map is not None:
        assert nothing.map.shape == (0, *images.shape[2:]), "no pictures must get no maps"


def _check_ragged(model: Model) -> None:
    try:
        detector = model.ragged
    except AdError as error:
        msg = f"it refuses to learn from five pictures: {error}"
        raise NotApplicable(msg) from error
    assert predict(detector, model.images[:1]).score.isfinite().all(), (
        "after a last batch of one picture scores must be finite"
    )


def _check_memory(model: Model) -> None:
    counts = []
    gc.freeze()  # what is there already is left out: to look through it takes a second
    try:
        for _ in range(3):  # what is made once, such as a table of offsets, is there already
            predict(model.detector, model.images[:1])
            gc.collect()
            counts.append(sum(issubclass(type(one), Tensor) for one in gc.get_objects()))
    finally:
        gc.unfreeze()
    assert not counts[0] < counts[1] < counts[2], (
        "prediction must keep nothing: each time there are more tensors in memory, "
        f"{', '.join(map(str, counts))}"
    )


def _check_threads(model: Model) -> None:
    images, score = model.images, model.whole.score
    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(predict, model.detector, one) for one in (images, images.flip(0))]
        ahead, back = (task.result().score for task in tasks)
    # Not bit for bit: a thread of one's own may compute with another number of torch's.
    scores = (ahead, back.flip(0))
    assert all(torch.allclose(one, score, rtol=TOLERANCE, atol=TOLERANCE) for one in scores), (
        "two threads that predict at once must get the scores that one gets: keep nothing of a "
        "batch on the detector"
    )


def _check_flagged(model: Model) -> None:
    images = model.images[:1].clone()
    side = min(model.framing.size) // 4
    images[..., side : 2 * side, side : 2 * side] = torch.nan
    try:
        score = predict(model.detector, images).score
    except AdError:
        return
    assert not score.isfinite().all(), (
        "a picture with values that are not finite must get an error or a score that is not "
        f"finite, since any other passes for a verdict; got {score.item():.4g}"
    )


def _check_repeatable(model: Model) -> None:
    # A run that was killed and resumed is one that was repeated; a third only if they differ.
    with contextlib.suppress(Exception):  # which `resume` is there to tell of
        if model.by_gradient and torch.equal(model.resumed, model.whole.score):
            return
    assert torch.equal(model.again, model.whole.score), (
        "equal seeds and pictures must give equal scores"
    )


def _check_resume(model: Model) -> None:
    if not model.by_gradient:
        msg = "it learns in one pass: there is nothing to resume"
        raise NotApplicable(msg)
    assert torch.equal(model.resumed, model.whole.score), (
        "a run that was killed and resumed must end as one that was not: keep all that learning "
        "changes in `modules`, and draw random numbers from the batch's generators"
    )


def _check_folds(model: Model) -> None:
    trainer = model.trainer_class
    if not issubclass(trainer, OnePassTrainer) or trainer.fit_folds is OnePassTrainer.fit_folds:
        msg = "it has no `fit_folds` of its own"
        raise NotApplicable(msg)
    assert all(torch.allclose(*scores, rtol=TOLERANCE, atol=TOLERANCE) for scores in model.folds), (
        "detectors of `fit_folds` must score as those that trainers of their own learn from the "
        "other folds: a threshold is set by what each says of the fold that it has not seen"
    )


def _check_saved(model: Model) -> None:
    blank = model.build(FROM_MODEL_FILE).detector
    later = sorted(model.detector.state_dict().keys() - blank.state_dict().keys())
    assert not later, (
        f"all buffers and parameters must be there before fitting: `{(later or [''])[0]}` is not; "
        "register it in the detector's constructor, by `learned_buffer` if its size is not known"
    )
    same = (
        "a saved and loaded model must score the same: what it learns must be buffers and "
        "parameters (`learned_buffer`), all else must follow from its options"
    )
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "model"
        save_model(home, model.detector, {})
        load_tensors(blank, read_model(home)[0], home)
    try:
        loaded, whole = predict(blank.eval(), model.images), model.whole
    except Exception as error:
        place = raised_at(error, model.module)
        msg = f"{same}; loaded, it raises {type(error).__name__}: {error}{place}"
        raise AssertionError(msg) from error
    assert torch.equal(loaded.score, whole.score), same
    if whole.map is not None and loaded.map is not None:
        assert torch.equal(loaded.map, whole.map), same.replace("score", "map")


def _check_exportable(model: Model) -> None:
    check_export(model.detector, model.images, TOLERANCE, model.module)


def _check_separates(model: Model) -> None:
    longer = ""
    if model.by_gradient:
        longer = (
            f", after {model.num_epochs} epochs at most; if it needs more, say so by "
            '`check={"num_epochs": ...}` in the catalogue'
        )
    assert model.sees(*model.able), (
        f"a blatant defect must score higher than good pictures do{longer}"
    )


def _check_place(model: Model) -> None:
    if not model.detector.localises:
        msg = "it does not localise"
        raise NotApplicable(msg)
    assert model.finds(model.able[1]), "the map must be higher on a blatant defect than beside it"


def _check_rectangle(model: Model) -> None:
    wide = model.wider()
    size = wide.framing.size
    try:
        wide.build()
    except SettingError as refusal:
        msg = f"it takes no pictures of {size}: {refusal}"
        raise NotApplicable(msg) from refusal
    whole = wide.whole
    assert whole.score.isfinite().all(), f"scores of pictures of {size} must be finite"
    if whole.map is not None:
        assert tuple(whole.map.shape[1:]) == tuple(size), (
            f"`map` of pictures of {size} must be `[B, H, W]`; got {list(whole.map.shape)}"
        )
        assert whole.map.isfinite().all(), f"maps of pictures of {size} must be finite"
        assert wide.marks(whole), (
            f"in pictures of {size} a defect must change the map where it is, not elsewhere"
        )


_LEARNT = ("learns", "prediction")
_STEADY = (*_LEARNT, "state")

CHECKS: Mapping[str, Check] = {
    "catalogue": Check(check_catalogue),
    "options": Check(check_options),
    "unfitted": Check(_check_unfitted),
    "learns": Check(_check_learns),
    "offline": Check(_check_offline),
    "quiet": Check(_check_quiet, ("learns",)),
    "prediction": Check(_check_prediction, ("learns",)),
    "randomness": Check(_check_randomness, ("learns",)),
    "state": Check(_check_state, _LEARNT),
    "batch": Check(_check_batch, _STEADY),
    "empty": Check(_check_empty, _LEARNT),
    "ragged": Check(_check_ragged, _LEARNT),
    "memory": Check(_check_memory, _LEARNT),
    "threads": Check(_check_threads, _STEADY),
    "flagged": Check(_check_flagged, _LEARNT),
    "repeatable": Check(_check_repeatable, _STEADY),
    "resume": Check(_check_resume, (*_LEARNT, "repeatable")),
    "folds": Check(_check_folds, (*_LEARNT, "repeatable")),
    "saved": Check(_check_saved, _STEADY),
    "exportable": Check(_check_exportable, _STEADY),
    "separates": Check(_check_separates, _LEARNT),
    "place": Check(_check_place, _LEARNT),
    "rectangle": Check(_check_rectangle, _LEARNT),
}
"""All checks by their ids, in the order in which they are run."""
