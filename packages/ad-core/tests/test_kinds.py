import json

import numpy as np
import pytest
from PIL import Image

from ad.core import evaluate, train
from ad.core.data.samples import Sample, Saturation
from ad.core.errors import DataError, PictureError
from ad.core.figures.kinds import KIND_METRICS, kind_metrics, mean_of_kinds
from ad.core.figures.measure import IMAGE_METRICS, PIXEL_METRICS
from ad.core.metrics import Defect, au_spro, auroc
from ad.core.testing.pictures import make_picture

SATURATIONS = (Saturation(255, 20, False), Saturation(200, 0.5, True))


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def loco(tmp_path):
    """A tiny category `toy` in MVTec LOCO's tree; pictures of 48 x 32."""
    home = tmp_path / "loco" / "toy"
    numbers = iter(range(1000))

    def picture(*, defect=False):
        grey, mask = make_picture(next(numbers), size=48, defect=defect)
        return grey[:32], mask[:32]

    for split, count in (("train/good", 6), ("validation/good", 3), ("test/good", 3)):
        for number in range(count):
            save(home / split / f"{number:03d}.png", picture()[0])
    for kind, value in (("logical_anomalies", 255), ("structural_anomalies", 200)):
        for number in range(2):
            mask = np.zeros((1, 1), dtype=bool)
            while not mask.any():
                pixels, mask = picture(defect=True)
            save(home / "test" / kind / f"{number:03d}.png", pixels)
            truth = home / "ground_truth" / kind / f"{number:03d}"
            save(truth / "000.png", mask.astype(np.uint8) * value)
            save(truth / "001.png", np.roll(mask, 5, axis=1).astype(np.uint8) * value)
    names = ("pixel_value", "saturation_threshold", "relative_saturation")
    config = [dict(zip(names, saturation, strict=True)) for saturation in SATURATIONS]
    (home / "defects_config.json").write_text(json.dumps(config))
    return home.parent


def test_a_run_on_mvtec_loco_reports_each_kind(loco, mean_picture, tmp_path):
    result = train("mvtec-loco", "toy", mean_picture, data_root=loco, output_dir=tmp_path / "run")
    figures = json.loads((result.run / "metrics.json").read_text())
    kinds = figures["kinds"]["toy"]
    assert set(kinds) == {"logical_anomalies", "structural_anomalies"}
    assert all(set(kind) == set(KIND_METRICS) for kind in kinds.values())
    for key in ("au_spro", "au_spro_05"):
        mean = (kinds["logical_anomalies"][key] + kinds["structural_anomalies"][key]) / 2
        assert 0 < figures["metrics"][key] <= 1
        assert figures["metrics"][key] == figures["categories"]["toy"][key] == pytest.approx(mean)
    assert figures["metrics"]["image_auroc"] is not None
    assert any("AU-sPRO" in note for note in figures["notes"])
    assert evaluate(result.run).kinds == figures["kinds"]


def test_other_data_have_no_figures_by_kind(toy_root, mean_picture, tmp_path):
    result = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")
    assert result.evaluation.kinds == {}
    assert "kinds" not in json.loads((result.run / "metrics.json").read_text())
    assert set(result.metrics) == {*IMAGE_METRICS, *PIXEL_METRICS}


@pytest.fixture
def samples(tmp_path):
    """A good picture, one of each of two kinds, all 8 x 6, with maps as large."""
    rng = np.random.default_rng(0)
    grey = np.zeros((6, 8), dtype=np.uint8)
    first, second = grey.copy(), grey.copy()
    first[1:4, 2:6], second[2:5, 4:8] = 255, 200
    pictures = [save(tmp_path / f"{n}.png", grey) for n in range(3)]
    masks = [save(tmp_path / "m1.png", first), save(tmp_path / "m2.png", second)]
    found = [
        Sample(pictures[0], 0, "test", "c"),
        Sample(pictures[1], 1, "test", "c", "logical", tuple(masks), SATURATIONS),
        Sample(pictures[2], 1, "test", "c", "structural", tuple(masks[1:]), SATURATIONS),
    ]
    return found, rng.random(3).astype(np.float32), list(rng.random((3, 6, 8), dtype=np.float32))


def test_each_kind_is_held_against_the_good_pictures_alone(samples):
    found, scores, maps = samples
    kinds = kind_metrics(found, scores, maps)
    box, other = np.zeros((6, 8), dtype=bool), np.zeros((6, 8), dtype=bool)
    box[1:4, 2:6], other[2:5, 4:8] = True, True
    logical = [[], [Defect(box, 12), Defect(other, 6)]]  # 20 of 12 are 12; half of 12 are 6
    structural = [[], [Defect(other, 6)]]
    assert kinds == {
        "logical": {
            "image_auroc": auroc(scores[:2], [0, 1]),
            "au_spro": au_spro(maps[:2], logical, 0.3),
            "au_spro_05": au_spro(maps[:2], logical, 0.05),
        },
        "structural": {
            "image_auroc": auroc(scores[[0, 2]], [0, 1]),
            "au_spro": au_spro(maps[::2], structural, 0.3),
            "au_spro_05": au_spro(maps[::2], structural, 0.05),
        },
    }


def test_maps_are_brought_to_the_size_of_the_pictures_bilinearly(samples):
    found, scores, _ = samples
    rng = np.random.default_rng(1)
    small = [np.tile(rng.random(4, dtype=np.float32), (2, 1)) for _ in range(3)]
    # Two pixels to a cell: centres of pixels lie at quarters between the centres of cells.
    centres = (np.arange(8) + 0.5) / 2 - 0.5
    large = [np.tile(np.interp(centres, np.arange(4), m[0]), (6, 1)) for m in small]
    expected = kind_metrics(found, scores, [m.astype(np.float32) for m in large])
    assert kind_metrics(found, scores, small) == expected


def test_without_maps_there_is_image_auroc_alone(samples):
    found, scores, _ = samples
    kinds = kind_metrics(found, scores, [None] * 3)
    assert kinds["logical"] == {
        "image_auroc": auroc(scores[:2], [0, 1]),
        "au_spro": None,
        "au_spro_05": None,
    }
    assert mean_of_kinds(kinds)["au_spro"] is None


def test_a_value_that_the_data_do_not_explain_is_refused(samples, tmp_path):
    found, scores, maps = samples
    save(tmp_path / "m2.png", np.full((6, 8), 7, dtype=np.uint8))
    with pytest.raises(DataError, match=r"m2\.png` has pixels of value 7, .* do of `200`, `255`"):
        kind_metrics(found, scores, maps)


def test_a_mask_of_another_size_is_refused_since_pixels_are_counted(samples, tmp_path):
    found, scores, maps = samples
    save(tmp_path / "m2.png", np.full((12, 16), 255, dtype=np.uint8))
    words = r"m2\.png` is 16 x 12 pixels and its picture .* 8 x 6: they must be of one size"
    with pytest.raises(PictureError, match=words):
        kind_metrics(found, scores, maps)


def test_means_are_over_all_kinds_or_none():
    assert mean_of_kinds(
        {
            "a": {"image_auroc": 0.5, "au_spro": 0.25, "au_spro_05": None},
            "b": {"image_auroc": 1.0, "au_spro": 0.75, "au_spro_05": 0.5},
        }
    ) == {"image_auroc": 0.75, "au_spro": 0.5, "au_spro_05": None}
