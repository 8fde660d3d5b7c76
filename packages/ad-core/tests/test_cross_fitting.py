"""Thresholds from all good pictures, each scored by a detector that has not seen it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ad.core import ModelRegistry, OnePassTrainer, load, recalibrate, train
from ad.core.data.batches import PictureSet
from ad.core.data.samples import Sample
from ad.core.errors import DataError, PluginError, SettingError
from ad.core.jobs import plan
from ad.core.learning.cross_fitting import cross_fitted
from ad.core.testing.mean_picture import MeanPictureDetector, MeanPictureTrainer
from ad.core.testing.pictures import write_mvtec_tree
from ad.core.thresholds.held_out import folds_of
from ad.core.trainer import Setup


def of(run):
    return json.loads((run / "model/config.json").read_text())["calibration"]


def by_hand(paths, folds):
    """Largest distance of each picture to the mean of those in the other folds."""
    pictures = np.stack([np.asarray(Image.open(p), dtype=np.float64) / 255 for p in paths])
    scores = []
    for fold in folds:
        others = [n for n in range(len(paths)) if n not in fold]
        mean = pictures[others].mean(axis=0)
        scores += [np.abs(pictures[n] - mean).max() for n in fold]
    return np.array(scores)


@pytest.mark.parametrize("good", [10, 23])
def test_each_picture_is_scored_by_who_has_not_seen_it(mean_picture, tmp_path, good):
    root = write_mvtec_tree(tmp_path / "data", size=32, train=good)
    run = train("mvtec", "toy", mean_picture, data_root=root, output_dir=tmp_path / "cross",
                holdout="cross", false_alarms=0.2, report=False).run  # fmt: skip
    whole = train("mvtec", "toy", mean_picture, data_root=root, output_dir=tmp_path / "whole",
                  holdout=0, report=False).run  # fmt: skip
    tensors = [(r / "model/model.safetensors").read_bytes() for r in (run, whole)]
    assert tensors[0] == tensors[1]  # what is kept has learnt from all, in the same order
    paths = sorted((root / "toy/train/good").iterdir())
    samples = [Sample(path, 0, "train", "toy") for path in paths]
    scores = np.sort(by_hand(paths, folds_of(samples, 0)))
    found, rank = of(run), {10: 9, 23: 20}[good]
    assert (found["num_images"], found["folds"]) == (good, {10: 10, 23: 10}[good])
    assert 0 < found["threshold"] - scores[rank - 1] < 0.01 * found["scale"]
    assert found["pixel_threshold"] == found["threshold"]  # this one's score is its map's largest
    where = json.loads((run / "model/config.json").read_text())["calibrated_on"]
    assert where["device"] == "cpu"


class Recording(OnePassTrainer):
    """Knows which pictures it was shown, by their brightness, and spoils what it is given."""

    made = []  # noqa: RUF012 - of one test
    extracted = []  # noqa: RUF012

    def __init__(self, setup):
        super().__init__(setup)
        self.detector = MeanPictureDetector(gain=1.0, img_size=setup.img_size)
        self.seen = []
        Recording.made.append(self)

    def begin(self, num_images):
        self.expected = num_images

    def extract(self, images):
        marks = (images[:, 0, 0, 0] * 255).round().int().tolist()
        Recording.extracted.append(marks)
        return [images[:, 0, 0, 0] * 255, (images.double(),)]

    def observe(self, features):
        marks, (images,) = features
        assert marks.dtype == torch.float32
        assert images.dtype == torch.float64  # as it was computed
        self.seen.append(marks.round().int().tolist())
        marks.zero_()

    def conclude(self):
        assert sum(map(len, self.seen)) == self.expected
        self.detector.mean = torch.zeros(3, *self.setup.img_size)


@pytest.mark.parametrize("budget", [10**6, 20_000, 0])
def test_features_are_asked_for_once_where_there_is_room(budget):
    folds, size = [[0, 3, 6], [1, 4], [2, 5]], Setup(img_size=16, normalize=False, batch_size=2)
    pictures = [np.full((16, 16, 3), 10 * n, np.uint8) for n in range(7)]
    sets = [PictureSet([pictures[n] for n in fold], 16) for fold in folds]
    Recording.made, Recording.extracted = [], []
    detectors = list(cross_fitted(lambda: Recording(size), sets, budget=budget))
    a, b, c = [[0, 30], [60]], [[10, 40]], [[20, 50]]
    assert [trainer.seen for trainer in Recording.made] == [b + c, a + c, a + b]
    assert [trainer.detector for trainer in Recording.made] == detectors
    # A batch of two has 2 * 16 * 16 * 3 * 8 = 12,288 bytes and 8: of 20,000, room for one.
    once = b + c + a
    assert (
        Recording.extracted
        == {10**6: once, 20_000: [*once, *c, *a], 0: [*b, *c, *a, *c, *a, *b]}[budget]
    )


def test_a_trainer_may_fit_all_folds_itself():
    class Together(Recording):
        def fit_folds(self, folds):
            self.sizes = [size for size, _ in folds]
            for _, batches in folds:
                for batch in batches:
                    self.observe(batch)
            return (MeanPictureDetector(gain=n, img_size=(16, 16)) for n in range(len(folds)))

    Recording.made, Recording.extracted = [], []
    size = Setup(img_size=16, normalize=False, batch_size=2)
    sets = [
        PictureSet([np.full((16, 16, 3), 10 * n, np.uint8) for n in fold], 16)
        for fold in ([0, 3, 6], [1, 4], [2])
    ]
    detectors = list(cross_fitted(lambda: Together(size), sets))
    (trainer,) = Recording.made
    assert trainer.sizes == [3, 2, 1]
    assert trainer.seen == Recording.extracted == [[0, 30], [60], [10, 40], [20]]
    assert [detector.gain for detector in detectors] == [0, 1, 2]
    assert not any(detector.training for detector in detectors)


def test_a_trainer_that_forgets_a_fold_is_told():
    class Forgetful(Recording):
        def fit_folds(self, folds):
            return iter([MeanPictureDetector(gain=1, img_size=(16, 16))])

    sets = [PictureSet([np.zeros((16, 16, 3), np.uint8)], 16)] * 3
    words = (
        "`fit_folds` of `Forgetful` must give a detector for each of the 3 folds, or None for all; "
    )
    with pytest.raises(PluginError, match=words + "it gave 1"):
        list(cross_fitted(lambda: Forgetful(Setup(img_size=16, normalize=False)), sets))


def test_what_is_no_tensor_is_asked_for_again():
    class Strange(Recording):
        def extract(self, images):
            return {"images": super().extract(images)}

        def observe(self, features):
            super().observe(features["images"])

    Recording.made, Recording.extracted = [], []
    pictures = [PictureSet([np.full((16, 16, 3), 10 * n, np.uint8)], 16) for n in range(3)]
    list(cross_fitted(lambda: Strange(Setup(img_size=16, normalize=False)), pictures))
    assert [trainer.seen for trainer in Recording.made] == [[[10], [20]], [[0], [20]], [[0], [10]]]


def some(**counts):
    return [
        Sample(Path(f"{category}{n}"), 0, "train", category)
        for category, count in counts.items()
        for n in range(count)
    ]


def test_folds_have_each_picture_once_and_each_category_spread_over_them():
    samples = some(a=31, b=13, c=2)
    folds = folds_of(samples, 3)
    assert sorted(n for fold in folds for n in fold) == list(range(46))
    assert sorted(map(len, folds)) == [4] * 4 + [5] * 6
    for category, least in (("a", 3), ("b", 1), ("c", 0)):
        counts = [sum(samples[n].category == category for n in fold) for fold in folds]
        assert (min(counts), max(counts)) == (least, least + 1)
    assert folds == folds_of(samples, 3) != folds_of(samples, 4)
    assert [len(folds_of(some(a=count), 0)) for count in (2, 20, 21)] == [2, 20, 10]
    with pytest.raises(SettingError, match="and `b` has 1 for training. Give more pictures or"):
        folds_of(some(a=9, b=1), 0)


@pytest.fixture
def told():
    class Told:
        lines = []  # noqa: RUF012

        def tell(self, line):
            self.lines.append(line)

        def step(self, *args, **kwargs):
            from ad.runtime.progress import SILENT

            return SILENT.step(*args, **kwargs)

    return Told()


def settled(model, root, tmp_path, told, **settings):
    told.lines.clear()
    result = train("mvtec", "toy", model, data_root=root, output_dir=tmp_path / str(settings),
                   report=False, progress=told, **settings)  # fmt: skip
    record = json.loads((result.run / "run.json").read_text())
    assert f"--holdout {record['settings']['holdout']} " in record["command"]
    said = [line for line in told.lines if "few good pictures" in line]
    return record["settings"]["holdout"], of(result.run)["num_images"], said


def test_few_pictures_are_crossed_by_themselves(
    mean_picture, student, toy_root, tmp_path, told, monkeypatch
):
    assert settled(mean_picture, toy_root, tmp_path, told) == ("cross", 10, [
        "few good pictures: the threshold is set with all 10, each scored by a detector that has "
        "not seen it (`--holdout cross`)"
    ])  # fmt: skip
    assert settled(mean_picture, toy_root, tmp_path, told, holdout=0.1) == (0.1, 1, [])
    assert settled(mean_picture, toy_root, tmp_path, told, false_alarms=0.5) == (0.1, 1, [])
    assert settled(mean_picture, toy_root, tmp_path, told, false_alarms=0.49)[0] == "cross"
    assert settled(student, toy_root, tmp_path, told, num_epochs=1) == (0.1, 1, [])
    monkeypatch.setattr(plan, "_FEW", 9)
    assert settled(mean_picture, toy_root, tmp_path, told, seed=1) == (0.1, 1, [])


def test_models_that_learn_by_gradient_are_not_crossed(student, toy_root):
    words = (
        "`holdout` cross is for models that learn in one pass: it fits up to 20 detectors, and "
        "`linear-student` learns by gradient. Give a share"
    )
    with pytest.raises(SettingError, match=words):
        train("mvtec", "toy", student, data_root=toy_root, holdout="cross")


@pytest.mark.parametrize(
    ("given", "words"),
    [("crossed", "must be a share such as 0.1, `cross` or `auto`; got 'crossed'"),
     ([], "valid number")],
)  # fmt: skip
def test_other_words_are_refused(mean_picture, toy_root, given, words):
    with pytest.raises(SettingError, match=f"`holdout`: .*{words}"):
        train("mvtec", "toy", mean_picture, data_root=toy_root, holdout=given)


def test_the_command_takes_it(mean_picture, toy_root, tmp_path, run_ad):
    command = ["train", "mvtec", "toy", mean_picture, "--data-root", toy_root, "--no-report"]
    status, _, err = run_ad(*command, "--output", tmp_path / "run", "--holdout", "cross")
    assert status == 0
    assert "about 1 in 11 good pictures (each of 10 scored by a detector that had not seen" in err
    assert "hint: for a threshold from more good pictures than the 10 at hand: ad calib" in err
    status, _, err = run_ad(*command, "--output", tmp_path / "no", "--holdout", "half")
    assert status == 2
    assert "or `cross`, or `auto`; got `half`." in " ".join(err.split())


def test_all_pictures_are_known_to_it(mean_picture, toy_root, tmp_path):
    run = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run").run
    with pytest.raises(DataError, match="10 of 10 pictures are among those that .* has learnt"):
        recalibrate(run, normals=toy_root / "toy/train/good")
    assert "of 10 detectors that had not seen it" in (run / "report.html").read_text()


def test_too_few_for_the_model_leave_nothing_behind(mean_picture, tmp_path, monkeypatch):
    def begin(self, num_images):
        if num_images < 2:
            msg = "It needs at least 2 normal pictures; got 1."
            raise DataError(msg)

    monkeypatch.setattr(MeanPictureTrainer, "begin", begin)
    root = write_mvtec_tree(tmp_path / "data", size=32, train=2)
    words = "got 1.\nhint: a detector that learns from the other folds .* `--holdout 0` learns from"
    with pytest.raises(DataError, match=words):
        train("mvtec", "toy", mean_picture, data_root=root, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tiles_and_regions_are_seen_as_always(tmp_path):
    ModelRegistry.register("bright", "bright:BrightTrainer", {}, {
        "num_epochs": 1, "batch_size": 3, "img_size": 32, "normalize": False})  # fmt: skip
    try:
        root = write_mvtec_tree(tmp_path / "data", size=96, train=4)
        mask = np.zeros((96, 96), np.uint8)
        mask[:40, :40] = 255
        Image.fromarray(mask).save(tmp_path / "roi.png")
        run = train("mvtec", "toy", "bright", data_root=root, output_dir=tmp_path / "run", tile=64,
                    roi=tmp_path / "roi.png", holdout="cross").run  # fmt: skip
        detector = load(run)
        found = detector.predict(root / "toy/train/good")  # it scores all alike, whoever learnt
        largest = max(finding.score for finding in found)
        calibration = detector.config.calibration
        assert calibration.folds == 4
        assert 0 < calibration.threshold - largest < 0.01 * calibration.scale
        assert detector.config.calibrated_on.tiles == (4, 4)
    finally:
        ModelRegistry.unregister("bright")
