"""Held-out pictures that a trainer chooses or scales by do not set the threshold."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from watching import EndingTrainer, ScalingTrainer, WatchingTrainer

from ad.core import ModelRegistry, load, recalibrate, train
from ad.core.data.finding import collect
from ad.core.data.mvtec import DATASET
from ad.core.data.samples import Sample
from ad.core.errors import DataError, SettingError
from ad.core.testing.linear_student import LinearStudentTrainer
from ad.core.thresholds.held_out import hold_out, share_out
from ad.core.trainer import GradientTrainer
from ad.runtime.calibration.by_rate import calibrate


@pytest.fixture
def watching():
    for name in ("watching", "scaling", "ending"):
        ModelRegistry.register(
            name,
            f"watching:{name.title()}Trainer",
            {},
            {"num_epochs": 2, "batch_size": 4, "img_size": 16, "normalize": False},
        )
    yield "watching"
    for name in ("watching", "scaling", "ending"):
        ModelRegistry.unregister(name)


def shares(root, holdout):
    samples = collect(DATASET, "toy", root=root, seed=0)
    _, held_out = hold_out(samples, holdout, 0)
    return [[sample.path for sample in part] for part in share_out(held_out, 0)]


def test_half_of_the_held_out_pictures_set_the_threshold(watching, toy_root, tmp_path):
    run = train("mvtec", "toy", watching, data_root=toy_root, output_dir=tmp_path / "run",
                holdout=0.5, report=False).run  # fmt: skip
    choosing, others = shares(toy_root, 0.5)
    assert (len(choosing), len(others)) == (2, 3)
    seen = torch.cat(WatchingTrainer.given)
    detector = load(run)
    assert len(seen) == 2 * len(choosing)  # in each of two epochs
    (batch,) = detector.pictures(choosing).batches(8)
    assert torch.equal(seen[:2], batch.pictures.permute(0, 3, 1, 2) / 255)
    calibration = detector.config.calibration
    largest = max(finding.score for finding in detector.predict(others))
    assert calibration.num_images == 3
    assert 0 < calibration.threshold - largest < 0.01 * calibration.scale
    start = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    assert (start["learning"], start["choosing"], start["held_out"]) == (5, 2, 3)
    for known in (choosing[0], collect(DATASET, "toy", root=toy_root, seed=0)[0].path):
        (tmp_path / known.stem).mkdir()
        (tmp_path / known.stem / "copy.png").write_bytes(known.read_bytes())
        with pytest.raises(DataError, match="has learnt from or was chosen by, such as"):
            recalibrate(run, normals=tmp_path / known.stem)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/copy.png").write_bytes(others[0].read_bytes())
    assert recalibrate(run, normals=tmp_path / "other").after.num_images == 1


def test_a_single_one_sets_it_and_what_that_costs_is_said(watching, toy_root, tmp_path):
    result = train("mvtec", "toy", watching, data_root=toy_root, output_dir=tmp_path / "run",
                   report=False)  # fmt: skip
    assert WatchingTrainer.given == []
    assert result.detector.config.calibration.num_images == 1
    (note,) = (note for note in result.notes if "best epoch" in note)
    assert note == (
        "Good pictures that were held out: 1 to set the threshold, and none was left for "
        "`watching` to choose its best epoch or its scale by, which went as without a hold-out. "
        "Hold out more: `--holdout 0.3` (`holdout=0.3` in Python)."
    )
    words = "nothing is held out, or a single picture, which is for the threshold. Leave it out, or"
    with pytest.raises(SettingError, match=words):
        train("mvtec", "toy", watching, data_root=toy_root, output_dir=tmp_path / "b", patience=2)


def test_who_uses_none_has_them_all_for_the_threshold(watching, toy_root, tmp_path):
    counts = {}
    for name in ("scaling", "ending"):
        ScalingTrainer.given = ["before"]
        result = train("mvtec", "toy", name, data_root=toy_root, output_dir=tmp_path / name,
                       holdout=0.4, report=False)  # fmt: skip
        counts[name] = (len(ScalingTrainer.given), result.detector.config.calibration.num_images)
    assert counts == {"scaling": (2, 2), "ending": (0, 4)}
    uses = [LinearStudentTrainer, WatchingTrainer, ScalingTrainer, EndingTrainer, GradientTrainer]
    assert [one.uses_held_out() for one in uses] == [False, True, True, False, False]


def test_each_category_is_halved():
    samples = [
        Sample(Path(f"{category}{n}"), 0, split, category)
        for category, split, count in (("a", "train", 7), ("b", "validation", 4), ("c", "train", 1))
        for n in range(count)
    ]
    choosing, others = share_out(samples, 0)
    assert Counter(s.category for s in choosing) == {"a": 3, "b": 2}
    assert Counter(s.category for s in others) == {"a": 4, "b": 2, "c": 1}
    assert sorted(map(str, choosing + others)) == sorted(map(str, samples))
    assert share_out(samples, 0) == (choosing, others) != share_out(samples, 1)
    assert share_out([], 0) == ([], [])


DRAWS, HELD_OUT, QUANTILES = 3000, 9, (0.9, 0.995)


@pytest.mark.parametrize("drawn", ["exponential", "standard_normal", "standard_cauchy"])
def test_two_maps_scaled_by_their_quantiles_keep_the_promise_on_other_pictures(drawn):
    """EfficientAD's rule, where its two maps have nothing to do with each other."""
    values = getattr(np.random.default_rng(1), drawn)(size=(DRAWS, 2, 2 * HELD_OUT + 20))
    to_scale, others, new = np.split(values, [HELD_OUT, 2 * HELD_OUT], axis=2)
    low, high = np.quantile(to_scale, QUANTILES, axis=2)[..., None]

    def scores(maps):
        return (0.1 * (maps - low) / (high - low)).max(axis=1)

    def alarms(set_on):
        found = np.array([
            (fresh > calibrate(good, rate=0.1).threshold).mean()
            for good, fresh in zip(scores(set_on), scores(new), strict=True)
        ])  # fmt: skip
        return found.mean(), 3 * found.std() / np.sqrt(DRAWS)

    before, error = alarms(to_scale)
    assert before - error > 0.17  # so it was, where one half did both
    after, error = alarms(others)
    assert 0.09 - error < after < 0.1 + error
