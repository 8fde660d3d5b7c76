"""What an export is checked by, on a graph and a detector whose scores are known: brightness."""

import numpy as np
import pytest
import torch

import ad.runtime
from ad.core import Detector, Prediction, Sample
from ad.core.exporting.gate import judged
from ad.core.exporting.parity import compare, frames_of, spread
from ad.core.framing import Framing
from ad.core.predict import LoadedDetector, ModelConfig
from ad.runtime.calibration.by_rate import calibrate
from ad.runtime.framing import Size
from ad.runtime.probe import noise
from ad.runtime.recalibrating import LEAST_OF_CATEGORY, set_by_own_scores

pytest.importorskip("onnxruntime")
tiny_export = pytest.importorskip("tiny_export")  # which makes ONNX graphs
brightness, calibration, make_export = (
    tiny_export.brightness,
    tiny_export.calibration,
    tiny_export.make_export,
)
SIZE = (8, 8)


class Bright(Detector):
    """The detector of `tiny_export`, wrong as it is told."""

    def __init__(self, *, score=0.0, pixel=0.0, pixels=1):
        super().__init__()
        self.score, self.pixel, self.pixels = score, pixel, pixels

    def forward(self, images):
        map_ = images.mean(1)
        scores = map_.amax((1, 2))
        map_ = map_.clone()
        map_.flatten(1)[:, : self.pixels] += self.pixel
        return Prediction(scores + self.score, map_)


class Jumping(Bright):
    map_jumps = True


def loaded(detector):
    config = ModelConfig(
        model="bright",
        options={},
        framing=Framing(size=Size(*SIZE)),
        normalize=False,
        precision="fp32",
        categories=("toy",),
        calibration=None,
        calibrated_on=None,
    )
    return LoadedDetector(detector, config, torch.device("cpu"))


def exported(tmp_path, **changes):
    make_export(tmp_path / "export", size=SIZE, **changes)
    return ad.runtime.load(tmp_path / "export", threads=1)


@pytest.fixture
def runtime(tmp_path):
    """Its threshold is 0.5, its scale 0.1, so that 0.001 is allowed."""
    return exported(tmp_path)


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)


def test_what_is_told_is_the_difference(runtime, frames):
    told = compare(loaded(Bright(score=-0.0005, pixel=0.0004)), runtime, frames, "held-out")
    assert told["passed"]
    largest = brightness(frames)[0].max() - 0.0005
    expected = {"max_abs": 0.0005, "max_rel": 0.0005 / largest, "max_scales": 0.005}
    assert told["score"] == pytest.approx(expected, rel=1e-2)
    assert told["map"]["max_scales"] == pytest.approx(0.004, rel=1e-2)
    assert told["verdicts"] == {"same": 5, "different": 0}
    assert told["reference"] == f"torch {torch.__version__} fp32 cpu"
    assert (told["pictures"], told["kind"], told["batch_sizes"]) == (5, "held-out", [1, 2, 3])
    assert told["noise_score"] == pytest.approx(brightness(noise(Size(*SIZE)))[0][0], rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"score": 0.0011}, "scores differ by up to 0.0011, and 0.001 are allowed"),
        ({"pixel": 0.0011}, "maps differ by up to 0.0011, and 0.001 are allowed"),
        ({"score": float("nan")}, "scores differ by up to nan, and 0.001 are allowed"),
    ],
)
def test_more_than_a_hundredth_of_the_scale_fails(runtime, frames, wrong, why):
    told = compare(loaded(Bright(**wrong)), runtime, frames, "held-out")
    assert not told["passed"]
    assert told["why"][0] == why


def test_without_a_scale_and_on_noise_it_is_a_share_of_the_largest(tmp_path, runtime, frames):
    bare = exported(tmp_path / "bare", calibration=None)
    for one, kind in ((bare, "held-out"), (runtime, "noise")):
        assert compare(loaded(Bright(score=0.00005)), one, frames, kind)["passed"]
        told = compare(loaded(Bright(score=0.0002)), one, frames, kind)
        assert not told["passed"]
    assert compare(loaded(Bright()), bare, frames, "noise")["verdicts"] is None


def test_one_verdict_that_is_different_fails(tmp_path, frames):
    score = float(np.sort(brightness(frames)[0])[2])
    near = exported(tmp_path, calibration=calibration(threshold=score - 1e-5))
    told = compare(loaded(Bright(score=-2e-5)), near, frames, "held-out")
    assert told["why"] == ["1 verdicts are different"]
    assert told["verdicts"] == {"same": 4, "different": 1}


def test_a_batch_that_scores_otherwise_than_its_pictures_fails(runtime, frames, monkeypatch):
    honest = ad.runtime.Runtime.score

    def together(self, batch):
        scores, maps = honest(self, batch)
        return scores + 0.01 * (len(batch) == 3), maps

    monkeypatch.setattr(ad.runtime.Runtime, "score", together)
    told = compare(loaded(Bright()), runtime, frames, "held-out")
    assert told["why"] == ["3 at once differ by 0.01 from one by one"]
    assert compare(loaded(Bright()), runtime, frames[:1], "held-out")["why"] != []


def test_where_maps_jump_a_thousandth_of_the_pixels_may_differ(tmp_path):
    make_export(tmp_path / "export", size=(32, 64))
    runtime = ad.runtime.load(tmp_path / "export", threads=1)
    frames = np.full((1, 32, 64, 3), 90, np.uint8)
    assert not compare(loaded(Bright(pixel=0.2, pixels=2)), runtime, frames, "check")["passed"]
    told = compare(loaded(Jumping(pixel=0.2, pixels=2)), runtime, frames, "check")
    assert told["passed"]
    assert told["map"]["within"] == pytest.approx(1 - 2 / 2048)
    assert not compare(loaded(Jumping(pixel=0.2, pixels=3)), runtime, frames, "check")["passed"]


def test_frames_are_spread_over_the_pictures_and_noise_is_the_same_each_time(runtime):
    pictures = [np.full((*SIZE, 3), level, np.uint8) for level in range(200)]
    frames = frames_of(runtime, pictures)
    levels = frames[:, 0, 0, 0]
    assert len(frames) <= 64
    assert (levels[0], levels[-1] > 190) == (0, True)
    assert (np.diff(levels) == 4).all()
    assert spread([1, 2, 3]) == [1, 2, 3]
    assert (frames_of(runtime, []) == frames_of(runtime, [])).all()
    assert frames_of(runtime, []).shape == (8, *SIZE, 3)


def pictures_of(counts):
    """Samples of grey pictures, brighter with each."""
    level, samples = 0, []
    for category, count in counts.items():
        for _ in range(count):
            picture = np.full((*SIZE, 3), level, np.uint8)
            samples.append(Sample(picture, 0, "train", category))
            level += 3
    return samples


def test_a_category_with_enough_pictures_has_a_threshold_of_its_own(tmp_path):
    runtime = exported(tmp_path, categories=("one", "other"))
    samples = pictures_of({"one": LEAST_OF_CATEGORY, "other": LEAST_OF_CATEGORY - 1})
    config, notes = set_by_own_scores(runtime, samples, 0.1)
    scores = np.array([sample.path.mean() / 255 for sample in samples], np.float32)
    assert config.calibration.threshold == pytest.approx(calibrate(scores, rate=0.1).threshold)
    assert [*config.calibrations] == ["one"]
    own = calibrate(scores[:LEAST_OF_CATEGORY], scores[:LEAST_OF_CATEGORY], rate=0.1)
    assert config.calibrations["one"].threshold == pytest.approx(own.threshold)
    assert config.calibrations["one"].pixel_threshold == pytest.approx(own.pixel_threshold)
    assert config.calibrations["one"].num_images == LEAST_OF_CATEGORY
    assert config.calibrated_on == runtime.engine.conditions
    assert notes == [
        "A threshold of its own takes 20 good pictures of a category; `other` 19 of those there "
        "are: verdicts on them are by the threshold of all."
    ]


def test_a_single_category_is_all_there_is(tmp_path):
    runtime = exported(tmp_path, categories=("one",))
    config, notes = set_by_own_scores(runtime, pictures_of({"one": 20}), 0.1)
    assert (config.calibrations, notes) == ({}, [])


class Judge:
    """Scores as told, in place of a runtime."""

    def __init__(self, scores, threshold=0.5):
        self.scores, self.threshold = np.array(scores, np.float32), threshold
        self.engine = self.config = self
        self.described, self.precision = "openvino fp32 cpu", "bf16"

    def scored(self, sources, batch_size):
        for index in range(len(sources)):
            yield type("Batch", (), {"indices": [index]}), self.scores[index : index + 1], None


FULL = np.linspace(0, 1, 200)
LABELS = [Sample(None, int(score > 0.5), "test", "toy") for score in FULL]


def test_lower_precision_that_judges_the_same_passes():
    told = judged(Judge(FULL), Judge(3 * FULL, threshold=1.5), LABELS, labelled=True)
    assert told["passed"]
    assert told["image_auroc"] == {"fp32": 1.0, "bf16": 1.0}
    assert (told["same_verdicts"], told["rank_correlation"]) == (1.0, pytest.approx(1.0))
    unknown = judged(Judge(FULL), Judge(FULL), LABELS, labelled=False)
    assert (unknown["passed"], unknown["image_auroc"]) == (True, None)


def test_each_limit_of_lower_precision_is_told_by_itself():
    few = FULL.copy()
    few[[98, 99, 100, 101]] = few[[101, 100, 99, 98]]  # 4 of 200 verdicts and ranks that are near
    told = judged(Judge(FULL), Judge(few), LABELS, labelled=False)
    assert told["why"] == ["98.0% of the verdicts are the same; 99% are needed"]
    hidden = FULL.copy()
    hidden[-2:] = -1  # two defects are the best of all now: 2 verdicts, 2 of 100 defects
    told = judged(Judge(FULL), Judge(hidden), LABELS, labelled=True)
    assert told["why"][0] == "image AUROC falls from 1.0000 to 0.9800, by more than 0.005"
    turned = judged(Judge(FULL, None), Judge(FULL[::-1], None), LABELS, labelled=False)
    assert turned["why"] == ["the correlation of ranks is -1.0000; 0.99 is needed"]
    assert judged(Judge(FULL), Judge(FULL * 0), LABELS, labelled=False)["rank_correlation"] is None
