"""Large pictures in tiles: where these lie, how their maps are joined, what is learnt and said."""

import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from bright import BrightTrainer
from changed_models import rewrite
from PIL import Image
from report_pages import Page
from tilings import tiling

from ad.core import ModelRegistry, Size, evaluate, load, recalibrate, train
from ad.core.errors import ModelFileError, SettingError
from ad.core.framing import Framing
from ad.core.testing.pictures import write_mvtec_tree
from ad.runtime.framing.region import Region

TRAIN = {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": False}


@pytest.fixture
def bright():
    ModelRegistry.register("bright", "bright:BrightTrainer", {}, TRAIN)
    yield "bright"
    ModelRegistry.unregister("bright")


@pytest.fixture
def large_root(tmp_path):
    """Pictures of 160 x 160 pixels."""
    return write_mvtec_tree(tmp_path / "large", size=160)


@pytest.fixture
def run(bright, large_root, tmp_path):
    return train("mvtec", "toy", bright, data_root=large_root, tile=64, holdout=0.3,
                 output_dir=tmp_path / "run").run  # fmt: skip


def test_the_same_tiles_are_read_with_and_without_a_cache_and_each_picture_once():
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 255, size, np.uint8) for size in ((160, 100, 3), (50, 70, 3))]
    framing = Framing(size=Size(64, 64), tiling=tiling())
    decoded = []

    def counting(pixels, name):
        decoded.append(pixels.shape)
        return framing.view(pixels, name)

    plain, cached = framing.pictures(arrays), framing.pictures(arrays, cache=True)
    cached.view = counting
    assert len(plain) == len(cached) == 4 * 3 + 1 * 2
    order = list(np.random.default_rng(2).permutation(len(plain)))
    for pictures, rows in ((cached, order), (cached, order), (plain, range(len(plain)))):
        for batch in pictures.batches(3, order=rows):
            for index, tile in zip(batch.indices, batch.pictures, strict=True):
                number, place = (0, index) if index < 12 else (1, index - 12)
                columns = 3 if number == 0 else 2
                y, x = 32 * (place // columns), 32 * (place % columns)
                whole = np.pad(arrays[number], ((0, 128), (0, 128), (0, 0)), mode="edge")
                assert np.array_equal(tile.numpy(), whole[y : y + 64, x : x + 64])
    assert sorted(decoded) == sorted(one.shape for one in arrays)


def test_a_run_learns_from_tiles_and_says_of_a_picture_what_its_tiles_say(run, large_root):
    kept = json.loads((run / "model" / "config.json").read_text())
    assert kept["img_size"] == 64
    assert kept["tiling"] == {"tile": 64, "overlap": 32, "margin": 16, "scale": 1.0}
    assert kept["calibrated_on"]["tiles"] == [16, 16]
    assert BrightTrainer.shown[0].shape[1:] == (3, 64, 64)
    detector = load(run)
    good = len(list((large_root / "toy/train/good").iterdir()))
    assert detector.detector.seen == 16 * (good - round(0.3 * good))

    pixels = np.random.default_rng(3).integers(0, 200, (160, 160, 3), np.uint8)
    pixels[61:66, 30:34] = 255  # on a seam
    findings = [detector.predict(pixels, batch_size=size)[0] for size in (1, 5, 16)]
    brightness = pixels.astype(np.float64).mean(2) / 255
    for finding in findings:
        assert finding.score == pytest.approx(1.0)
        assert np.allclose(finding.map, brightness, atol=1e-6)


def test_a_picture_smaller_than_a_tile_is_one(run):
    detector = load(run)
    pixels = np.random.default_rng(4).integers(0, 255, (40, 50, 3), np.uint8)
    with pytest.warns(UserWarning, match="has 1 tiles"):
        (finding,) = detector.predict(pixels)
    whole = np.pad(pixels, ((0, 24), (0, 14), (0, 0)), mode="edge")
    scores, maps = detector.score(torch.from_numpy(whole)[None])
    assert finding.score == scores[0]
    assert np.array_equal(finding.map, maps[0][:40, :50])


def test_figures_are_of_the_pictures_own_pixels_and_are_found_again(run, run_ad):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["resolution"] is None
    assert metrics["metrics"]["pixel_auroc"] is not None
    assert any("tiles of 64 x 64, which overlap by 32" in note for note in metrics["notes"])
    again = evaluate(run)
    assert again.metrics == metrics["metrics"]
    status, _, told = run_ad("evaluate", run, "--no-report")
    assert status == 0
    assert "pixels compared at each picture's own size" in told
    assert Page(run / "report.html").data["resolution"] is None


def test_pictures_are_resized_before_they_are_cut(bright, large_root, tmp_path):
    made = train("mvtec", "toy", bright, data_root=large_root, tile=64, tile_scale=0.5,
                 overlap=0, output_dir=tmp_path / "half").run  # fmt: skip
    detector = load(made)
    pixels = np.zeros((160, 160, 3), np.uint8)
    pixels[100:120, 20:40] = 255
    finding = detector.predict(pixels)[0]
    assert finding.map.shape == (80, 80)
    back = detector.config.framing.back(finding.map, (160, 160))
    assert back[102:118, 22:38].min() > 0.9
    assert back[:96].max() == 0


def test_the_recorded_command_makes_the_same_model(run, run_ad, tmp_path):
    record = json.loads((run / "run.json").read_text())
    words = record["command"] if isinstance(record["command"], list) else record["command"].split()
    status, _, told = run_ad(*words[1:], "--output", tmp_path / "again")
    assert status == 0, told
    for name in ("model/model.safetensors", "model/config.json"):
        assert (run / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_pictures_of_another_number_of_tiles_are_told_once(run):
    detector = load(run)
    small, same = (np.zeros((*size, 3), np.uint8) for size in ((300, 160), (160, 160)))
    with pytest.warns(UserWarning, match="has 36 tiles.* of 16: .*ad calibrate") as told:
        detector.predict([small, same, small])
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.predict([same])


def test_a_threshold_that_is_set_anew_is_for_the_new_pictures(run, tmp_path):
    folder = tmp_path / "longer"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 99, (300, 160, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    recalibrate(run, normals=folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(run).predict(folder)


def test_with_a_region_only_tiles_that_show_it_are_learnt_from(bright, large_root, tmp_path):
    inside = np.zeros((160, 160), np.uint8)
    inside[:20, :20] = 255
    Image.fromarray(inside).save(tmp_path / "corner.png")
    made = train("mvtec", "toy", bright, data_root=large_root, tile=64, roi=tmp_path / "corner.png",
                 holdout=0.3, output_dir=tmp_path / "run").run  # fmt: skip
    detector = load(made)
    good = len(list((large_root / "toy/train/good").iterdir()))
    assert detector.detector.seen == good - round(0.3 * good)
    pixels = np.zeros((160, 160, 3), np.uint8)
    pixels[30:] = 255
    pixels[5, 5] = 51
    finding = detector.predict(pixels)[0]
    assert finding.score == pytest.approx(0.2)
    assert np.isnan(finding.map[25:]).all()
    assert not np.isnan(finding.map[:20, :20]).any()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tile": 100}, "`tile` must be a multiple of 32 from 64 pixels on.*got 100.*--tile 96"),
        ({"tile": 32}, "from 64 pixels on"),
        ({"tile": 64, "overlap": 48}, "`overlap` must be a multiple of 32 from 0 to 32.*got 48"),
        ({"tile": 64, "overlap": 64}, "32 less than the tile; got 64"),
        ({"tile": 64, "tile_scale": 0.001}, "`tile_scale` must be from 0.01 to 8; got 0.001"),
        ({"overlap": 32}, "`overlap` 32 is of tiles: set `tile`, too"),
        ({"tile_scale": 0.5}, "`tile_scale` 0.5 is of tiles: set `tile`, too"),
        ({"tile": 64, "img_size": 128}, "is what the model sees.*got 128.*`tile_scale`"),
        ({"tile": 64, "fit": "pad"}, "`fit` pad gives a whole picture one size.*Leave `fit` out"),
    ],
)
def test_tiles_that_cannot_be_are_refused(bright, large_root, tmp_path, given, words):
    with pytest.raises(SettingError, match=words):
        train("mvtec", "toy", bright, data_root=large_root, output_dir=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("installed", "others"),
    [(["stfpm", "padim", "draem"], "`draem`, `stfpm`"), ([], "`patchcore` of ad-memory")],
)
def test_a_model_that_knows_positions_is_refused_with_others(
    bright, large_root, tmp_path, monkeypatch, installed, others
):
    spec = replace(ModelRegistry.get(bright), tileable=False)
    monkeypatch.setattr(ModelRegistry, "get", classmethod(lambda cls, name: spec))
    monkeypatch.setattr(ModelRegistry, "names", classmethod(lambda cls: installed))
    words = f"`bright` knows where on a picture things are.*`img_size`.*such as {others}"
    with pytest.raises(SettingError, match=words):
        train("mvtec", "toy", bright, data_root=large_root, tile=64, output_dir=tmp_path / "run")


def test_the_command_tells_of_tiles(bright, large_root, run_ad, tmp_path):
    given = ("--data-root", large_root, "--tile", "64", "--overlap", "0")
    status, _, told = run_ad("train", "mvtec", "toy", bright, *given, "--output", tmp_path / "run")
    assert status == 0
    assert re.search(r"learning: \d+ tiles", told)
    assert "cut into tiles of 64 x 64" in told.replace("\n", " ")


@pytest.mark.parametrize(
    "changed",
    [
        {"tile": 96},
        {"margin": 20},
        {"overlap": 31},
        {"scale": 0},
        {"scale": True},
        {"margin": 1.5},
        {"other": 1},
        {"tile": "64"},
    ],
)
def test_a_saved_tiling_that_cannot_be_is_refused(run, changed):
    config = json.loads((run / "model" / "config.json").read_text())
    config["tiling"] |= changed
    rewrite(run / "model", "config.json", json.dumps(config).encode())
    with pytest.raises(ModelFileError, match="malformed entry `tiling`"):
        load(run)


def test_a_region_of_which_nothing_is_white_in_a_tile_leaves_that_tile_out():
    inside = np.zeros((160, 160), bool)
    inside[100, 100] = True
    region = Region(inside)
    framing = Framing(size=Size(64, 64), tiling=tiling(), region=region)
    found = framing.places(np.zeros((160, 160, 3), np.uint8))
    assert found == [(y, x) for y in (64, 96) for x in (64, 96)]
