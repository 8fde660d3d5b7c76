"""A region of interest: what lies outside counts for nothing, and is not painted over."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from changed_models import rewrite
from PIL import Image
from report_pages import Page

from ad.core import Setup, Size, evaluate, load, recalibrate, train
from ad.core.errors import DataError, ModelFileError, PictureError, SettingError
from ad.core.framing import Framing
from ad.core.jobs.inspect import inspect
from ad.core.networks import cells_looked_at
from ad.runtime.framing.region import Crop, Region
from ad.runtime.heatmaps import heat_of, overlay

SIDE = 32


def put(path, pixels):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


@pytest.fixture
def left(tmp_path):
    """The left half is looked at."""
    pixels = np.zeros((SIDE, SIDE))
    pixels[:, : SIDE // 2] = 255
    return put(tmp_path / "left.png", pixels)


@pytest.fixture
def run(mean_picture, toy_root, left, tmp_path):
    return train("mvtec", "toy", mean_picture, data_root=toy_root, roi=left,
                 output_dir=tmp_path / "run").run  # fmt: skip


def picture(path):
    return np.array(Image.open(path).convert("RGB"))


# --- what is outside counts for nothing --------------------------------------------------------


def test_scores_are_the_largest_inside_and_maps_know_nothing_outside(
    run, mean_picture, toy_root, tmp_path
):
    plain = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "plain")
    paths = sorted((toy_root / "toy/test").rglob("*.png"))
    for with_roi, without in zip(
        load(run).predict(paths), plain.detector.predict(paths), strict=True
    ):
        assert with_roi.score == without.map[:, :16].max()
        np.testing.assert_array_equal(with_roi.map[:, :16], without.map[:, :16])
        assert np.isnan(with_roi.map[:, 16:]).all()


def test_nothing_outside_changes_a_score_or_a_threshold(mean_picture, toy_root, left, tmp_path):
    made = []
    for name in ("clean", "soiled"):
        made.append(
            train("mvtec", "toy", mean_picture, data_root=toy_root, roi=left,
                  output_dir=tmp_path / name)
        )  # fmt: skip
        rng = np.random.default_rng(8)
        for path in (toy_root / "toy").rglob("*.png"):  # outside, anything may lie in them
            if "ground_truth" not in str(path):
                pixels = picture(path)
                pixels[:, 16:] = rng.integers(0, 256, (32, 16, 3))
                put(path, pixels)
    clean, soiled = made
    assert clean.detector.config.calibration == soiled.detector.config.calibration
    scores = [(one.run / "scores.jsonl").read_bytes() for one in made]
    assert scores[0] == scores[1]
    assert clean.metrics == soiled.metrics


@pytest.mark.parametrize("labelled", [False, True])
def test_thresholds_are_set_anew_by_what_is_inside(run, toy_root, tmp_path, labelled):
    found = []
    for soiled in (False, True):
        home = tmp_path / f"new{soiled}"
        rng, dirt = np.random.default_rng(9), np.random.default_rng(10)
        for number in range(8):
            bad = labelled and number > 5
            pixels = rng.integers(90, 110, (32, 32, 3))
            pixels[4:8, 4:8] += 100 * bad
            if soiled:
                pixels[:, 16:] = dirt.integers(0, 256, (32, 16, 3))
            folder = home / ("dent" if bad else "good")
            folder.mkdir(parents=True, exist_ok=True)
            put(folder / f"{number}.png", pixels)
        given = {"validation": home} if labelled else {"normals": home / "good"}
        found.append(recalibrate(run, **given).after)
    assert found[0] == found[1]


def test_figures_are_of_the_pixels_inside_and_say_so(run, toy_root):
    figures = json.loads((run / "metrics.json").read_text())
    notes = " ".join(figures["notes"])
    assert "Only the region of interest, 50 % of what the model sees, is looked at" in notes
    hidden = sum(
        not (np.array(Image.open(mask)) > 0)[:, :16].any()
        for mask in (toy_root / "toy/ground_truth/square").iterdir()
    )
    total = len(list((toy_root / "toy/test/square").iterdir()))
    assert 0 < hidden < total
    assert f"The defects of {hidden} of {total} defective pictures lie where nothing is" in notes
    from ad.core.metrics import pixel_metrics

    maps, masks = [], []
    for path in sorted((toy_root / "toy/test").rglob("*.png")):
        (finding,) = load(run).predict(path)
        mask = np.zeros((32, 16), bool)
        if path.parent.name == "square":
            file = toy_root / f"toy/ground_truth/square/{path.stem}_mask.png"
            mask = (np.array(Image.open(file)) > 0)[:, :16]
            if not mask.any():
                continue
        maps.append(finding.map[:, :16])
        masks.append(mask)
    expected = pixel_metrics(maps, masks)
    assert {key: figures["metrics"][key] for key in expected} == pytest.approx(expected, abs=1e-12)
    assert evaluate(run).metrics == figures["metrics"]


def test_a_model_without_maps_refuses_a_region(whole, toy_root, left, tmp_path):
    words = "`whole` judges pictures as a whole and has no map.*take a model that localises"
    with pytest.raises(SettingError, match=words):
        train("mvtec", "toy", whole, data_root=toy_root, roi=left, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_region_goes_with_every_fit():
    inside = np.zeros((20, 40), bool)
    inside[:, :10] = True
    region = Region(inside)
    squares = Framing(size=Size(20, 20), fit="pad", region=region)
    expected = np.zeros((20, 20), bool)
    expected[5:15, :5] = True  # 10 x 20 lie in the middle, and the padding is not looked at
    np.testing.assert_array_equal(squares.looked_at, expected)
    middle = Framing(size=Size(10, 30), fit="crop", resize=Size(20, 40), region=region)
    np.testing.assert_array_equal(middle.looked_at, inside[5:15, 5:35])
    cut = Framing(size=Size(10, 20), crop=Crop(4, 8, 20, 10), region=region)
    np.testing.assert_array_equal(cut.looked_at, inside[8:18, 4:24])


def test_maps_come_back_without_what_lies_outside(tmp_path):
    pixels = np.zeros((30, 30))
    pixels[:, :15] = 255
    region = Region.read(put(tmp_path / "r.png", pixels))
    map_ = np.full((10, 10), np.nan, np.float32)
    map_[:, :5] = 2.0
    whole = Framing(size=Size(10, 10), region=region).back(map_, (30, 30))
    # Up to the border it is the mean of what counts, neither paler nor unknown.
    np.testing.assert_allclose(whole[:, :15], 2.0, rtol=1e-6)
    assert np.isnan(whole[:, 15:]).all()


# --- what a region may be ----------------------------------------------------------------------


def grey_levels(*values):
    pixels = np.zeros((SIDE, SIDE))
    for number, value in enumerate(values):
        pixels[number * 4 :] = value
    return pixels


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (grey_levels(0), "is black all over, so nothing would be looked at"),
        (grey_levels(0, 128, 255), "must be black and white, and has 3 values .0, 128, 255.:"),
        (grey_levels(0, 1, 2, 3, 4), "has 5 values .0, 1, 2, 3, ....: it is not known"),
        (grey_levels(50, 255), "must be black and white, and has 2 values .50, 255."),
    ],
)
def test_a_region_that_is_not_black_and_white_is_refused(
    mean_picture, toy_root, tmp_path, pixels, words
):
    roi = put(tmp_path / "roi.png", pixels)
    with pytest.raises(SettingError, match=f"^`roi`: `{roi}` .*{words}"):
        train("mvtec", "toy", mean_picture, data_root=toy_root, roi=roi,
              output_dir=tmp_path / "run")  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_region_that_cannot_be_read_is_refused(mean_picture, toy_root, tmp_path, run_ad):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    for roi, words in ((broken, "cannot be read"), (tmp_path / "gone.png", "does not exist")):
        with pytest.raises(SettingError, match=f"^`roi`: The region of interest `{roi}` {words}"):
            train("mvtec", "toy", mean_picture, data_root=toy_root, roi=roi)
    status, _, err = run_ad("train", "mvtec", "toy", mean_picture, "--data-root", toy_root,
                            "--roi", tmp_path / "gone.png")  # fmt: skip
    assert status == 1
    assert "`roi`: The region of interest" in err


@pytest.mark.parametrize("white", [1, 255])
def test_what_is_not_black_is_looked_at(tmp_path, white):
    assert Region.read(put(tmp_path / "r.png", grey_levels(0, white))).inside.sum() == 28 * 32
    Image.fromarray(grey_levels(0, 1) > 0).save(tmp_path / "bits.png")
    assert Region.read(tmp_path / "bits.png").inside.sum() == 28 * 32
    red = np.zeros((4, 4, 3), np.uint8)
    red[1, 2, 0] = 255
    assert np.argwhere(Region.read(put(tmp_path / "c.png", red)).inside).tolist() == [[1, 2]]


def test_a_region_of_another_shape_is_refused(mean_picture, toy_root, tmp_path):
    roi = put(tmp_path / "roi.png", np.full((32, 64), 255))
    words = (
        r"The picture `.*` is 32 x 32 pixels and the region of interest \(`roi`\) 64 x 32: it must "
        "have the pictures' proportions"
    )
    with pytest.raises(PictureError, match=words):
        train("mvtec", "toy", mean_picture, data_root=toy_root, roi=roi,
              output_dir=tmp_path / "run")  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_region_may_be_coarser_unless_there_is_a_crop(mean_picture, toy_root, tmp_path):
    pixels = np.zeros((16, 16))
    pixels[:, :8] = 255
    roi = put(tmp_path / "roi.png", pixels)
    made = train("mvtec", "toy", mean_picture, data_root=toy_root, roi=roi,
                 output_dir=tmp_path / "run")  # fmt: skip
    assert made.detector.config.framing.looked_at[:, :16].all()
    assert made.detector.config.framing.looked_at.sum() == 32 * 16
    with pytest.raises(PictureError, match="must have the pictures' size, as there is a crop too"):
        train("mvtec", "toy", mean_picture, data_root=toy_root, roi=roi, crop=(0, 0, 16, 16))


def test_a_region_of_which_nothing_is_seen_is_refused(mean_picture, toy_root, left):
    with pytest.raises(SettingError, match=r"^`roi`: nothing that is white in it is seen at 32 x"):
        train("mvtec", "toy", mean_picture, data_root=toy_root, roi=left, crop=(20, 0, 10, 10))


def test_a_picture_of_another_shape_is_an_error_of_its_own(run):
    (finding,) = load(run).predict(np.zeros((32, 64, 3), np.uint8))
    assert finding.score is None
    assert "The array is 64 x 32 pixels and the region of interest" in finding.error


# --- saved with the model ----------------------------------------------------------------------


def test_a_region_is_a_file_of_the_manifest(run, left, tmp_path):
    manifest = json.loads((run / "model/manifest.json").read_text())
    assert set(manifest["sha256"]) == {"config.json", "model.safetensors", "roi.png"}
    np.testing.assert_array_equal(
        np.array(Image.open(run / "model/roi.png")), np.array(Image.open(left))
    )
    left.unlink()  # it is with the model
    assert load(run).config.framing.looked_at.sum() == 32 * 16
    recalibrate(run, threshold=0.3)
    assert load(run).config.framing.looked_at.sum() == 32 * 16


def test_the_same_pixels_are_the_same_region_whatever_their_file(run, left):
    Image.open(left).save(run / "model/roi.png", compress_level=0)
    rewrite(run / "model", "roi.png", (run / "model/roi.png").read_bytes())
    assert load(run).config.framing.region == Region.read(left)
    flat = np.ones((2, 8), bool)
    assert Region(flat) != Region(flat.reshape(4, 4)) != Region(~flat)


def test_a_saved_region_that_was_changed_is_refused(run):
    roi = run / "model/roi.png"
    before = roi.read_bytes()
    roi.write_bytes(before[:-1])
    with pytest.raises(ModelFileError, match=r"roi.png` is not the file that was saved"):
        load(run)
    other = io.BytesIO()
    Image.new("L", (8, 8), 255).save(other, format="PNG")
    rewrite(run / "model", "roi.png", other.getvalue())
    with pytest.raises(ModelFileError, match="is not the region of interest that the config"):
        load(run)
    rewrite(run / "model", "roi.png", b"no picture")
    with pytest.raises(ModelFileError, match="cannot be used: `roi`: The region of interest"):
        load(run)
    roi.unlink()
    with pytest.raises(ModelFileError, match=r"`roi.png` cannot be read"):
        load(run)
    manifest = json.loads((run / "model/manifest.json").read_text())
    del manifest["sha256"]["roi.png"]
    (run / "model/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelFileError, match=r"does not list the sha256 of `roi.png`"):
        load(run)


def test_a_run_goes_on_only_with_its_own_region(run, mean_picture, toy_root, left):
    (run / "metrics.json").unlink()
    put(left, 255 - picture(left)[..., 0])
    again = {"data_root": toy_root, "resume": run, "roi": left}
    with pytest.raises(DataError, match=r"learns from beyond .* then region of interest [0-9a-f]+"):
        train("mvtec", "toy", mean_picture, **again)
    put(left, 255 - picture(left)[..., 0])
    assert train("mvtec", "toy", mean_picture, **again).run == run


def test_a_report_shows_the_region_and_no_heat_outside(run):
    data = Page(run / "report.html").data
    shown = Image.open(io.BytesIO(base64.b64decode(data["roi"].split(",")[1]))).convert("L")
    pixels = np.array(shown)
    assert (pixels[:, :16] == 255).all()
    assert (pixels[:, 16:] == 0).all()
    for one in data["gallery"]:
        heat = np.array(Image.open(io.BytesIO(base64.b64decode(one["heat"].split(",")[1]))))
        assert heat[:, 20:].max() <= 8  # of 255; what is lossy reaches a little


def test_an_overlay_leaves_what_is_outside_as_it_is(run, toy_root, tmp_path):
    path = sorted((toy_root / "toy/test/square").iterdir())[0]
    made = inspect(run, [path], output=tmp_path / "out")
    sheet = np.array(Image.open(made.rows[0].heatmap).convert("RGB"))
    plain, mixed = sheet[:256, :256], sheet[:256, 264:520]
    np.testing.assert_array_equal(mixed[:, 128:], plain[:, 128:])


def test_heat_is_of_what_is_known():
    map_ = np.array([[1.0, 3.0], [np.nan, 2.0]], np.float32)
    np.testing.assert_array_equal(heat_of(map_, None), [[0, 1], [np.nan, 0.5]])
    grey = np.full((256, 256, 3), 90, np.uint8)
    sheet = np.array(overlay(grey, np.full((2, 2), np.nan, np.float32), ""))
    assert (sheet[:256, 264:] == 90).all()


# --- what is learnt ----------------------------------------------------------------------------


def test_cells_that_the_region_hears_of():
    looked_at = np.zeros((32, 32), bool)
    looked_at[:8, :8] = True  # the first of 8 x 8 cells of 4 pixels each are 2 x 2
    near = cells_looked_at(looked_at, (8, 8), reach=0)
    assert near[:3, :3].all()  # and those beside it, which pixels between the two are of
    assert near.sum() == 9
    assert cells_looked_at(looked_at, (8, 8), reach=4).sum() == 16
    assert cells_looked_at(looked_at, (8, 8), reach=100).all()
    # Brute force: a cell counts if its own bump, upsampled, is above 0 anywhere inside.
    blot = np.random.default_rng(3).random((32, 32)) < 0.01
    found = cells_looked_at(blot, (8, 8), reach=0)
    for cell in range(64):
        bump = torch.zeros(1, 1, 8, 8)
        bump.view(-1)[cell] = 1
        up = torch.nn.functional.interpolate(bump, (32, 32), mode="bilinear")[0, 0].numpy()
        assert not up[blot].any() or found.view(-1)[cell]


def test_a_trainer_is_told_what_counts(mean_picture, toy_root, left, tmp_path, monkeypatch):
    seen = []
    before = Setup.__post_init__

    def told(setup):
        before(setup)
        seen.append(setup.looked_at)

    monkeypatch.setattr(Setup, "__post_init__", told)
    train("mvtec", "toy", mean_picture, data_root=toy_root, roi=left, output_dir=tmp_path / "run")
    assert seen[0].sum() == 32 * 16
