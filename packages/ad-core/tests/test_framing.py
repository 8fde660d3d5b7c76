"""How a picture becomes what a detector sees: sizes of height and width, everywhere the same."""

import base64
import io
import json
import re
import shlex

import numpy as np
import pytest
import torch
import typer
from changed_models import rewrite
from PIL import Image
from report_pages import Page

from ad.core import Size, load, size_of, train
from ad.core.cli.options import picture_size
from ad.core.data.batches import PictureSet
from ad.core.data.resizing import resize
from ad.core.data.samples import Sample
from ad.core.errors import ModelFileError, SettingError
from ad.core.framing import Framing
from ad.core.metrics import pixel_metrics
from ad.core.synth.preview import preview
from ad.core.testing.pictures import make_picture, write_mvtec_tree
from ad.core.trainer import Setup
from ad.runtime.framing.size import wrong_size
from ad.runtime.pictures.drawn import read_mask
from ad.runtime.pictures.reading import read_picture

SIZE = (32, 48)


@pytest.fixture
def wide_root(tmp_path):
    """Pictures of 40 x 90, one category, `toy`, in MVTec AD's layout."""
    return write_mvtec_tree(tmp_path / "wide", size=(40, 90))


@pytest.fixture
def wide(mean_picture, wide_root, tmp_path):
    return train("mvtec", "toy", mean_picture, img_size=SIZE, data_root=wide_root,
                 output_dir=tmp_path / "run")  # fmt: skip


def read(path):
    return json.loads(path.read_text())


def test_a_size_is_height_and_width():
    assert size_of(256) == size_of((256, 256)) == Size(height=256, width=256)
    assert (str(size_of(256)), size_of(256).typed, size_of(256).plain) == ("256 x 256", "256", 256)
    wide = size_of((256, 640))
    assert str(wide) == "256 x 640 (height x width)"
    assert (wide.typed, wide.plain) == ("256x640", (256, 640))
    setups = [Setup(img_size=size, normalize=False).img_size for size in (16, (16, 24), [16, 24])]
    assert setups == [Size(16, 16), Size(16, 24), Size(16, 24)]


@pytest.mark.parametrize(
    ("size", "near"),
    [
        ((250, 630), "`--img-size 224x608` or `--img-size 256x640`"),
        ((256, 630), "`--img-size 256x608` or `--img-size 256x640`"),
        (100, "`--img-size 96` or `--img-size 128`"),
        ((20, 96), "`--img-size 64x96`"),
        ((4095, 64), "`--img-size 4064x64` or `--img-size 4096x64`"),
    ],
)
def test_sizes_near_one_are_multiples(size, near):
    assert size_of(size).near(32, 64) == near


def test_both_sides_are_multiples_from_the_least_on():
    sizes = [(64, 96), (96, 64), (64, 100), (100, 64), (32, 96), (96, 32)]
    assert [size_of(size).divides(32, 64) for size in sizes] == [True, True, *[False] * 4]


WRONG = [
    ((32,), "two of them: height and width"),
    ((32, 48, 3), "two of them: height and width"),
    ((32, 48.0), "two of them: height and width"),
    ((32, True), "two of them: height and width"),
    ("256x640", "two of them: height and width"),
    (32.0, "two of them: height and width"),
    ((8, 48), "height should be greater than or equal to 16"),
    ((32, 8), "width should be greater than or equal to 16"),
    ((4097, 32), "height should be less than or equal to 4096"),
    ((32, 10**18), "width should be less than or equal to 4096"),
]


@pytest.mark.parametrize(("size", "words"), WRONG)
def test_a_size_that_cannot_be_is_refused(mean_picture, toy_root, tmp_path, size, words):
    with pytest.raises(SettingError, match=f"^`img_size`: .*{words}; got"):
        train("mvtec", "toy", mean_picture, img_size=size, data_root=toy_root,
              output_dir=tmp_path / "run")  # fmt: skip
    assert not (tmp_path / "run").exists()
    assert wrong_size(size, least=16)


@pytest.mark.parametrize("size", [0, -1, (32, 0), "32", None, (32,)])
def test_a_trainer_is_given_no_size_that_cannot_be(size):
    with pytest.raises(SettingError, match="^`img_size`: "):
        Setup(img_size=size, normalize=False)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256", 256),
        ("256x640", (256, 640)),
        ("256X640", (256, 640)),
        (" 256 x 640 ", (256, 640)),
        ("-1", -1),
        ("0x10", (0, 10)),
    ],
)
def test_a_size_is_typed_as_height_x_width(text, size):
    assert picture_size(text) == size


@pytest.mark.parametrize(
    "text", ["256x", "x256", "256x640x3", "256*640", "256,640", "", "1e2", "256.0", "٣٢", "9" * 30]
)
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(typer.BadParameter, match=r"height x width, such as `256x640`; got"):
        picture_size(text)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("0x10", r"error: `img_size`: height should be greater than or equal to 16; got \(0, 10\)"),
        ("-1", "error: `img_size`: input should be greater than or equal to 16; got -1"),
    ],
)
def test_a_command_refuses_a_size_in_words(run_ad, mean_picture, toy_root, typed, words):
    arguments = ("train", "mvtec", "toy", mean_picture, "--data-root", toy_root)
    status, _, err = run_ad(*arguments, "--img-size", typed)
    assert status == 1
    assert re.match(words, err)


def test_a_command_that_is_typed_wrong_names_the_option(run_ad, mean_picture):
    status, _, err = run_ad("train", "mvtec", "toy", mean_picture, "--img-size", "256x")
    assert status == 2
    words = " ".join(re.sub("[│\\n]", " ", err).split())
    assert "Invalid value for '--img-size': it takes the side of a square in pixels" in words
    assert "height x width, such as `256x640`; got `256x`." in words


def test_a_rectangle_is_recorded_as_height_and_width(wide, capsys):
    assert read(wide.run / "run.json")["settings"]["img_size"] == [32, 48]
    assert read(wide.run / "metrics.json")["resolution"] == [32, 48]
    config = read(wide.run / "model/config.json")
    assert (config["img_size"], config["fit"]) == ([32, 48], "stretch")
    assert wide.evaluation.resolution == (32, 48)
    assert load(wide.run, device="cpu").config.framing == Framing(size=Size(32, 48))


def test_a_pair_of_equal_sides_is_recorded_as_one_number(mean_picture, toy_root, tmp_path):
    for name, size in (("one", 32), ("two", (32, 32))):
        train("mvtec", "toy", mean_picture, img_size=size, data_root=toy_root,
              output_dir=tmp_path / name)  # fmt: skip
    files = ("run.json", "metrics.json", "model/config.json", "model/model.safetensors")
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert read(tmp_path / "two/run.json")["settings"]["img_size"] == 32


def test_the_recorded_command_makes_the_same_model(wide, run_ad, tmp_path):
    words = shlex.split(read(wide.run / "run.json")["command"])
    assert words[words.index("--img-size") + 1] == "32x48"
    status, _, err = run_ad(*words[1:], "--output", tmp_path / "again")
    assert status == 0
    assert "pixels compared at 32 x 48 (height x width)" in err
    for name in ("scores.jsonl", "model/model.safetensors", "model/config.json", "run.json"):
        assert (tmp_path / "again" / name).read_bytes() == (wide.run / name).read_bytes()


def test_a_run_goes_on_only_at_its_own_size(wide, mean_picture, wide_root):
    (wide.run / "metrics.json").unlink()
    again = {"data_root": wide_root, "resume": wide.run}
    with pytest.raises(SettingError, match=r"with `img_size` \[32, 48\]; got \[48, 32\]"):
        train("mvtec", "toy", mean_picture, img_size=(48, 32), **again)
    resumed = train("mvtec", "toy", mean_picture, img_size=SIZE, **again)
    assert resumed.metrics == wide.metrics


def test_defects_of_wide_pictures_are_found_where_they_are(wide, wide_root):
    assert wide.metrics["image_auroc"] == 1.0
    assert wide.metrics["pixel_auroc"] > 0.98
    assert wide.metrics["aupro"] > 0.9
    found = wide.detector.predict(wide_root / "toy/test/square")
    for finding in found:
        assert finding.map.shape == (32, 48)
        mask = wide_root / f"toy/ground_truth/square/{finding.path.stem}_mask.png"
        where = np.argwhere(np.array(Image.open(mask)) > 0).mean(axis=0) * (32 / 40, 48 / 90)
        at = np.unravel_index(finding.map.argmax(), finding.map.shape)
        assert np.abs(at - where).max() < 6
    assert max(np.unravel_index(f.map.argmax(), f.map.shape)[1] for f in found) >= 32


def test_maps_of_no_pictures_have_the_shape(wide):
    scores, maps = wide.detector.score(torch.zeros(0, *SIZE, 3, dtype=torch.uint8))
    assert (scores.shape, maps.shape) == ((0,), (0, 32, 48))


def test_a_model_of_before_there_was_a_fit_scores_the_same(mean_picture, toy_root, tmp_path):
    run = tmp_path / "run"
    train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=run)
    pictures = np.stack([make_picture(i, size=40)[0] for i in range(3)])
    before = [finding.score for finding in load(run, device="cpu").predict(pictures)]
    config = read(run / "model/config.json")
    assert config.pop("fit") == "stretch"
    assert config["img_size"] == 32
    rewrite(run / "model", "config.json", json.dumps(config).encode())
    assert [finding.score for finding in load(run, device="cpu").predict(pictures)] == before


@pytest.mark.parametrize(
    "changes",
    [
        *({"img_size": size} for size in ([32], [32, 48, 3], [0, 48], [32, 4097], [32, True])),
        *({"img_size": size} for size in ([32, 48.0], [], 0, 4097, {"height": 32}, None)),
        *({"fit": fit} for fit in ("zoom", "", None, 1, ["stretch"])),
    ],
)
def test_a_saved_framing_that_cannot_be_is_refused(wide, changes):
    config = {**read(wide.run / "model/config.json"), **changes}
    rewrite(wide.run / "model", "config.json", json.dumps(config).encode())
    with pytest.raises(ModelFileError, match=f"malformed entry `{next(iter(changes))}`"):
        load(wide.run, device="cpu")


@pytest.mark.parametrize("size", [(24, 60), (60, 24), (90, 130)])
def test_resizing_to_height_and_width_is_pillows_within_a_level(size):
    picture = np.random.default_rng(3).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))
    found = resize(picture, size).numpy()
    assert found.shape == (*size, 3)
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(10, 25), (25, 10)])
def test_masks_are_brought_to_height_and_width_by_nearest_neighbour(tmp_path, size):
    mask = np.random.default_rng(4).random((50, 100)) < 0.3
    for name, pixels in (("p", np.zeros((50, 100))), ("m", mask * 255)):
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    rows = ((np.arange(size[0]) + 0.5) * 50 / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * 100 / size[1]).astype(int)
    expected = mask[rows][:, columns]
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", tmp_path / "p.png", size), expected)
    sample = Sample(path=tmp_path / "p.png", label=1, split="test", category="toy",
                    masks=(tmp_path / "m.png",))  # fmt: skip
    np.testing.assert_array_equal(Framing(size=Size(*size)).truth(sample), expected)


def test_a_thin_defect_keeps_its_place_in_a_rectangle(tmp_path):
    mask = np.zeros((60, 120), np.uint8)
    mask[44, 101] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    Image.fromarray(np.zeros_like(mask)).save(tmp_path / "p.png")
    found = read_mask(tmp_path / "m.png", tmp_path / "p.png", (6, 24))
    assert np.argwhere(found).tolist() == [[44 * 6 // 60, 101 * 24 // 120]]


@pytest.mark.parametrize("ram_budget", [2**20, 0])
def test_cached_rectangles_are_those_that_were_read(tmp_path, ram_budget):
    write_mvtec_tree(tmp_path, size=(20, 30))
    files = sorted((tmp_path / "toy/train/good").iterdir())
    cached = PictureSet(files, SIZE, cache=True, ram_budget=ram_budget)
    expected = torch.stack([resize(read_picture(path), SIZE) for path in files])
    for _ in range(2):
        assert torch.equal(torch.cat([b.pictures for b in cached.batches(3)]), expected)


def test_pixel_figures_do_not_know_which_way_pictures_lie():
    rng = np.random.default_rng(5)
    maps = [rng.random((12, 30)).astype(np.float32) for _ in range(4)]
    truths = [np.kron(rng.random((3, 6)) < 0.2, np.ones((4, 5))) > 0 for _ in range(4)]
    upright = pixel_metrics(maps, truths)
    turned = pixel_metrics([one.T.copy() for one in maps], [one.T.copy() for one in truths])
    assert upright == pytest.approx(turned, rel=1e-12)


def test_a_report_shows_rectangles_in_their_shape(mean_picture, wide_root, tmp_path):
    trained = train("mvtec", "toy", mean_picture, img_size=(160, 400), data_root=wide_root,
                    output_dir=tmp_path / "run")  # fmt: skip
    data = Page(trained.report).data
    assert data["resolution"] == "160 x 400 (height x width)"
    assert ["img_size", "160 x 400 (height x width)"] in sum(
        (g["facts"] for g in data["facts"]), []
    )
    for one in data["gallery"]:
        sizes = {
            key: Image.open(io.BytesIO(base64.b64decode(one[key].split(",")[1]))).size
            for key in ("picture", "heat", "mask")
            if one[key] is not None
        }
        assert sizes["picture"] == (256, 102)
        assert sizes["heat"] == (128, 51)
        assert sizes.get("mask", (256, 102)) == (256, 102)


def test_learning_from_rectangles_keeps_features_of_their_shape(
    student, wide_root, tmp_path, monkeypatch
):
    # One at a time: how many pictures are asked at once moves a last digit on some processors.
    monkeypatch.setattr("ad.core.data.learning._FILL_BATCH", 1)
    scores = [
        (train("mvtec", "toy", student, num_epochs=1, img_size=(16, 24), data_root=wide_root,
               batch_size=1, output_dir=tmp_path / cache, feature_cache=cache).run
         / "scores.jsonl").read_bytes()
        for cache in ("auto", "off")
    ]  # fmt: skip
    assert scores[0] == scores[1]


def test_a_sheet_of_synthetic_defects_has_rectangles(wide_root, tmp_path):
    made = preview("mvtec", "toy", data_root=wide_root, output=tmp_path / "out", count=1,
                   img_size=(80, 160))  # fmt: skip
    with Image.open(made.sheet) as sheet:
        assert sheet.size == (3 * 160 + 3 * 8 + 8, 80 + 22)
    with pytest.raises(SettingError, match="`img_size` must be at least 16 pixels; got 80x15"):
        preview("mvtec", "toy", data_root=wide_root, output=tmp_path / "b", img_size=(80, 15))
