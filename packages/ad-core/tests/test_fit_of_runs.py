"""How pictures get the size in a run: set, checked, saved and told of."""

import json

import numpy as np
import pytest
import typer
from changed_models import rewrite
from PIL import Image

from ad.core import Size, load, train
from ad.core.cli.options import rectangle
from ad.core.errors import ModelFileError, PictureError, SettingError
from ad.core.framing import Framing
from ad.core.metrics import auroc, pixel_metrics
from ad.core.settings import RunSettings
from ad.core.testing.pictures import make_picture, write_mvtec_tree
from ad.runtime.framing.region import Crop


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"fit": "zoom"}, r"`fit`: .*'stretch', 'pad' or 'crop'; got 'zoom'"),
        ({"fit": "crop"}, r"needs `resize`.*`--fit crop --resize 256 --img-size 224`"),
        ({"resize": 256}, r"`resize` 256 is .* with `fit` crop; got `fit` stretch"),
        ({"fit": "pad", "resize": 256}, "got `fit` pad. Leave `resize` out"),
        ({"fit": "crop", "resize": (256, 200)}, "got `resize` 256x200 and `img_size` 224"),
        ({"fit": "crop", "resize": 8}, "`resize`: input should be greater than or equal to 16"),
        ({"crop": (1, 2, 3)}, r"`crop`: input should be four whole numbers .*; got \(1, 2, 3\)"),
        ({"crop": (1, 2, 3.0, 4)}, "`crop`: input should be four whole numbers"),
        ({"crop": (-1, 2, 3, 4)}, "`crop`: x and y should be 0 or more"),
        ({"crop": (1, 2, 0, 4)}, "`crop`: width and height should be 1 or more"),
        ({"crop": (1, 2, 3, 10**7)}, "`crop`: no number should be above 1,000,000"),
    ],
)
def test_what_cannot_go_together_is_refused(mean_picture, toy_root, tmp_path, given, words):
    with pytest.raises(SettingError, match=words):
        train("mvtec", "toy", mean_picture, img_size=224, data_root=toy_root,
              output_dir=tmp_path / "run", **given)  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_crop_is_refused_before_anything_is_learnt(mean_picture, toy_root, tmp_path):
    with pytest.raises(PictureError, match=r"000.png` is 32 x 32 pixels .*: the crop 20,0,20,20"):
        train("mvtec", "toy", mean_picture, crop=(20, 0, 20, 20), data_root=toy_root,
              output_dir=tmp_path / "run")  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_rectangle_is_typed_as_four_numbers():
    assert rectangle(" 1,2 , 30,40") == (1, 2, 30, 40)
    for text in ("1,2,3", "1,2,3,4,5", "a,b,c,d", "1x2x3x4", "1.5,2,3,4", ""):
        with pytest.raises(typer.BadParameter, match=f"such as `100,50,800,600`; got `{text}`"):
            rectangle(text)


FITS = [
    {"fit": "pad"},
    {"fit": "crop", "resize": (40, 36)},
    {"crop": (4, 6, 60, 30)},
    {"fit": "pad", "crop": (4, 6, 60, 30)},
]


@pytest.fixture
def wide_root(tmp_path):
    """Pictures of 40 x 90, one category, `toy`, in MVTec AD's layout."""
    return write_mvtec_tree(tmp_path / "wide", size=(40, 90))


@pytest.mark.parametrize("given", FITS, ids=str)
def test_a_fit_is_saved_and_used_everywhere(mean_picture, wide_root, tmp_path, run_ad, given):
    made = train("mvtec", "toy", mean_picture, data_root=wide_root, output_dir=tmp_path / "run",
                 **given)  # fmt: skip
    saved = json.loads((made.run / "model/config.json").read_text())
    framing = load(made.run).config.framing
    assert json.loads(json.dumps(framing.to_json())).items() <= saved.items()
    assert (framing.fit, framing.crop) == (given.get("fit", "stretch"), given.get("crop"))
    # Files and arrays score the same, and as in the test.
    tested = [json.loads(line) for line in (made.run / "scores.jsonl").read_text().splitlines()]
    paths = [line["path"] for line in tested]
    arrays = [np.array(Image.open(path).convert("RGB")) for path in paths]
    assert [f.score for f in made.detector.predict(paths)] == [line["score"] for line in tested]
    assert [f.score for f in made.detector.predict(arrays)] == [line["score"] for line in tested]
    # The recorded command makes the same model.
    words = json.loads((made.run / "run.json").read_text())["command"].split()
    status, _, _ = run_ad(*words[1:], "--output", tmp_path / "again")
    assert status == 0
    for name in ("scores.jsonl", "metrics.json", "model/config.json", "run.json", "report.html"):
        assert (tmp_path / "again" / name).read_bytes() == (made.run / name).read_bytes()
    notes = " ".join(made.notes)
    assert ("of that only the middle 32 x 32 is looked at" in notes) == (framing.fit == "crop")
    assert ("only 60 x 30 pixels (width x height) from x 4, y 6" in notes) == ("crop" in given)


def test_a_picture_that_the_crop_leaves_is_an_error_of_its_own(mean_picture, wide_root, tmp_path):
    made = train("mvtec", "toy", mean_picture, data_root=wide_root, output_dir=tmp_path / "run",
                 crop=(4, 6, 60, 30))  # fmt: skip
    good, small = made.detector.predict([noise(40, 90), noise(30, 60)])
    assert good.error is None
    assert small.score is None
    assert "The array is 60 x 30 pixels (width x height): the crop 4,6,60,30" in small.error


def test_pixel_figures_of_padded_pictures_leave_the_padding_out(mean_picture, wide_root, tmp_path):
    made = train("mvtec", "toy", mean_picture, data_root=wide_root, output_dir=tmp_path / "run",
                 fit="pad", img_size=45)  # fmt: skip
    scores, labels = [], []
    for path in sorted((wide_root / "toy/test").rglob("*.png")):
        (finding,) = made.detector.predict(path)
        mask = np.zeros((20, 45), bool)
        if path.parent.name != "good":
            file = wide_root / f"toy/ground_truth/square/{path.stem}_mask.png"
            whole = np.array(Image.open(file)) > 0
            mask = whole[1::2, 1::2]  # nearest to the middles of 2 x 2
        scores.append(finding.map[12:32])  # 45 - 20 are 12 above and 13 below
        labels.append(mask)
    expected = auroc(np.concatenate(scores).ravel(), np.concatenate(labels).ravel())
    assert made.metrics["pixel_auroc"] == pytest.approx(expected, abs=1e-12)


def test_pixels_that_do_not_count_change_no_figure():
    rng = np.random.default_rng(6)
    maps = rng.random((3, 20, 30)).astype(np.float32)
    masks = np.kron(rng.random((3, 5, 6)) < 0.2, np.ones((4, 5))) > 0
    counted = np.zeros_like(masks)
    counted[:, 3:17, 4:26] = True
    around = np.where(counted, maps, np.nan)
    expected = pixel_metrics(maps[:, 3:17, 4:26], masks[:, 3:17, 4:26])
    assert pixel_metrics(around, masks, counted) == pytest.approx(expected, abs=1e-12)
    assert pixel_metrics(maps, masks) != pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"fit": "crop"}, "resize"),
        ({"resize": 64}, "resize"),
        ({"resize": 0}, "resize"),
        ({"resize": True}, "resize"),
        ({"crop": [1, 2, 3]}, "crop"),
        ({"crop": [1, 2, 3, 0]}, "crop"),
        ({"crop": {"x": 1}}, "crop"),
        ({"roi": True}, "roi"),
        ({"tiles": 3}, "tiles"),
    ],
)
def test_a_saved_fit_that_cannot_be_is_refused(mean_picture, toy_root, tmp_path, changes, named):
    made = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")
    config = {**json.loads((made.run / "model/config.json").read_text()), **changes}
    rewrite(made.run / "model", "config.json", json.dumps(config).encode())
    with pytest.raises(ModelFileError, match=f"malformed entry `{named}`"):
        load(made.run)


def test_a_run_of_before_there_were_fits_is_resumed(mean_picture, toy_root, tmp_path):
    made = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")
    record = json.loads((made.run / "run.json").read_text())
    for name in ("fit", "resize", "crop", "roi"):
        del record["settings"][name]
    (made.run / "run.json").write_text(json.dumps(record))
    (made.run / "metrics.json").unlink()
    again = {"data_root": toy_root, "resume": made.run}
    with pytest.raises(SettingError, match="started with `fit` 'stretch'; got 'pad'"):
        train("mvtec", "toy", mean_picture, fit="pad", **again)
    assert train("mvtec", "toy", mean_picture, **again).metrics == made.metrics


def test_settings_of_before_there_were_fits_stretch():
    settings = RunSettings(dataset="d", category="c", model="m", data_root=None, num_epochs=1,
                           batch_size=1, img_size=32, normalize=False, options={})  # fmt: skip
    assert settings.framing() == Framing(size=Size(32, 32))


@pytest.mark.parametrize(
    ("framing", "pixels"),
    [
        (Framing(size=Size(32, 32)), "about 40 pixels"),  # 600 / 32 = 18.75, twice
        (Framing(size=Size(100, 100)), "about 12 pixels"),
        (Framing(size=Size(151, 151)), None),
        (Framing(size=Size(32, 32), crop=Crop(0, 0, 100, 100)), None),
        (Framing(size=Size(32, 32), fit="crop", resize=Size(40, 40)), "about 30 pixels"),
    ],
)
def test_it_is_said_what_is_too_small_to_be_seen(tmp_path, framing, pixels):
    Image.new("L", (600, 480)).save(tmp_path / "a.png")
    said = framing.lost(tmp_path / "a.png")
    if pixels is None:
        assert said is None
    else:
        assert said.startswith("Pictures are 480 x 600 (height x width), such as `")
        assert f"seen at {framing.size}: what is smaller than {pixels} is lost" in said
        assert "see `--img-size`" in said


def test_a_training_says_it_once(mean_picture, tmp_path):
    root = write_mvtec_tree(tmp_path / "data", size=(80, 160))
    made = train("mvtec", "toy", mean_picture, data_root=root, output_dir=tmp_path / "run",
                 img_size=20)  # fmt: skip
    assert sum("what is smaller than about 16 pixels is lost" in note for note in made.notes) == 1
    assert not any("is lost" in note for note in
                   train("mvtec", "toy", mean_picture, data_root=root, img_size=64,
                         output_dir=tmp_path / "b").notes)  # fmt: skip


def test_pictures_of_another_shape_are_all_seen(mean_picture, toy_root, tmp_path):
    made = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run",
                 fit="pad")  # fmt: skip
    plain = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "plain")
    assert made.metrics == plain.metrics  # squares have nothing to pad
    picture, _ = make_picture(0, size=(40, 90))
    assert made.detector.predict(picture)[0].score != plain.detector.predict(picture)[0].score
