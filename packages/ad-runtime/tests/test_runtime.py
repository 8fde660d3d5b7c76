"""An exported model at work: what pictures come as, framing, verdicts, threads."""

import io
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from at_once import at_once
from PIL import Image
from tiny_export import brightness, calibration, here, make_export

import ad.runtime
from ad.runtime import Runtime, load
from ad.runtime.errors import (
    DataError,
    ModelFileError,
    PathError,
    PictureError,
    SettingError,
    UnknownNameError,
)
from ad.runtime.framing import Crop, Framing, Region, Size, Tiling
from ad.runtime.resize import resize
from ad.runtime.runtime import warn_of_more_threads_than_cores


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def runtime(root):
    make_export(root / "plain")
    return load(root / "plain", threads=1)


def framed(root, **changes):
    """A model that sees pictures as these settings say, at 32 x 32."""
    name = "-".join(changes)
    if not (root / name).exists():
        framing = Framing(**{"size": Size(32, 32), **changes})
        make_export(root / name, framing=framing, calibrated_on=here(tiles=(4, 4)))
    return load(root / name, threads=1)


def picture(height=40, width=50, seed=0, most=120):
    values = np.random.default_rng(seed).integers(0, most, (height, width, 3))
    return values.astype(np.uint8)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_picture_has_one_score_whatever_it_comes_as(runtime, tmp_path):
    pixels = picture()
    (tmp_path / "a.png").write_bytes(png(pixels))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.png").write_bytes(png(pixels))
    seen = resize(pixels, (32, 32))[None]
    (expected,), (map_,) = brightness(seen)
    inputs = [
        tmp_path / "a.png",
        str(tmp_path / "b"),
        pixels,
        np.stack([pixels, pixels]),
        png(pixels),
        Image.fromarray(pixels),
        pixels.astype(np.float64) / 255,
    ]
    findings = runtime.predict(inputs, batch_size=3)
    assert [finding.path for finding in findings] == [
        tmp_path / "a.png",
        tmp_path / "b" / "c.png",
        *[None] * 6,
    ]
    for finding in findings:
        assert finding.score == pytest.approx(expected, abs=1e-6)
        assert np.allclose(finding.map, map_, atol=1e-6)
        assert finding.score == findings[0].score
        assert finding.anomalous is False
        assert finding.verdict == "good"
        assert finding.normalized == calibration().normalize(finding.score)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_what_cannot_be_read_is_told_and_the_others_are_scored(runtime, tmp_path, batch_size):
    names = []
    for number, content in enumerate([png(picture()), b"no", png(picture(seed=1)), b"", b"x"]):
        names.append(tmp_path / f"{number}.png")
        names[-1].write_bytes(content)
    findings = runtime.predict(names, batch_size=batch_size)
    assert [finding.path for finding in findings] == names
    assert [finding.verdict for finding in findings] == ["good", "error", "good", "error", "error"]
    assert [finding.score is None for finding in findings] == [False, True, False, True, True]
    assert "1.png" in findings[1].error
    with pytest.raises(PictureError, match=r"1\.png"):
        list(runtime.scored(names, batch_size))


def test_pictures_are_read_as_they_are_asked_for(runtime, tmp_path, monkeypatch):
    read = []
    real = Runtime.prepare
    monkeypatch.setattr(Runtime, "prepare", lambda self, one: read.append(1) or real(self, one))
    stream = runtime.stream([picture()] * 50)
    next(stream)
    stream.close()
    assert len(read) <= 5


def test_step_by_step_says_the_same_as_at_once(runtime):
    pictures = [picture(), picture(60, 30, seed=1, most=256)]
    prepared = [runtime.prepare(one) for one in pictures]
    assert [one.size for one in prepared] == [(40, 50), (60, 30)]
    scores, maps = runtime.score(np.concatenate([one.frames for one in prepared]))
    for row, (one, finding) in enumerate(zip(prepared, runtime.predict(pictures), strict=True)):
        own = runtime.conclude(one, scores[row : row + 1], maps[row : row + 1])
        assert (own.score, own.normalized, own.anomalous) == (
            finding.score,
            finding.normalized,
            finding.anomalous,
        )
        assert np.array_equal(own.map, finding.map)
    assert runtime.predict(pictures)[1].anomalous is True


def test_a_crop_is_cut_out_before_all_else(root):
    pixels = picture()
    pixels[:, :10] = 255  # beside the crop
    found = framed(root, crop=Crop(10, 5, 32, 32)).predict(pixels)[0]
    (expected,), _ = brightness(pixels[None, 5:37, 10:42])
    assert found.score == pytest.approx(expected, abs=1e-6)


def test_outside_a_region_nothing_counts(root):
    inside = np.zeros((32, 32), dtype=bool)
    inside[:, 16:] = True
    pixels = picture(32, 32)
    pixels[:, :16] = 255
    runtime = framed(root, region=Region(inside))
    found = runtime.predict(pixels)[0]
    _, (map_,) = brightness(pixels[None])
    assert found.score == pytest.approx(map_[:, 16:].max(), abs=1e-6)
    assert np.isnan(found.map).sum() == 32 * 16
    assert np.isnan(found.map[:, :16]).all()
    assert runtime.score(np.empty((0, 32, 32, 3), np.uint8))[0].shape == (0,)


def tiled(root, **changes):
    tiling = Tiling.of(Size(64, 64), 32)
    return framed(root, size=Size(64, 64), tiling=tiling, **changes)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_tiles_say_of_each_pixel_what_the_whole_says(root, batch_size):
    # Brightness is of each pixel by itself, so that cutting must change nothing.
    pixels = picture(96, 96, most=256)
    (found,) = tiled(root).predict(pixels, batch_size=batch_size)
    (expected,), (map_,) = brightness(pixels[None])
    assert found.score == pytest.approx(expected, abs=1e-6)
    assert found.map.shape == (96, 96)
    assert np.allclose(found.map, map_, atol=1e-6)


def test_tiles_are_prepared_and_concluded_as_one_picture(root):
    runtime, pixels = tiled(root), picture(96, 96, most=256)
    prepared = runtime.prepare(pixels)
    assert prepared.frames.shape == (4, 64, 64, 3)
    found = runtime.conclude(prepared, *runtime.score(prepared.frames))
    (whole,) = runtime.predict(pixels)
    assert found.score == whole.score
    assert np.array_equal(found.map, whole.map)


def test_of_tiles_only_the_region_counts(root):
    inside = np.zeros((96, 160), dtype=bool)
    inside[:40, :40] = True
    pixels = picture(96, 160)
    pixels[60:, 60:] = 255
    (found,) = tiled(root, region=Region(inside)).predict(pixels)
    assert found.score == pytest.approx(brightness(pixels[None, :40, :40])[0][0], abs=1e-6)
    assert np.isnan(found.map).sum() == 96 * 160 - 40 * 40


def test_another_number_of_tiles_is_told_once(root):
    runtime = tiled(root)
    with pytest.warns(UserWarning, match=r"The array has 9 tiles.* of 4: .*ad calibrate /") as told:
        runtime.predict([picture(128, 128)] * 3)
    assert len(told) == 1
    runtime.predict(picture(128, 128))  # a warning would be an error


def test_deep_pictures_are_read_by_the_models_white_level(root):
    make_export(root / "deep", white_level=4095)
    deep = np.full((32, 32), 2048, dtype=np.uint16)
    (found,) = load(root / "deep", threads=1).predict(deep)
    assert found.score == pytest.approx(2048 / 4095, abs=1 / 255)


@pytest.fixture(scope="module")
def categories(root):
    make_export(
        root / "categories",
        categories=("bottle", "cable", "cap sule"),
        calibrations={"cable": calibration(0.2)},
    )
    return load(root / "categories", threads=1)


def test_a_category_has_its_own_threshold_or_that_of_all(categories):
    grey = np.full((32, 32, 3), 80, dtype=np.uint8)  # 0.31
    assert categories.predict(grey)[0].anomalous is False
    assert categories.predict(grey, category="cable")[0].anomalous is True
    with pytest.warns(UserWarning, match="`bottle` of `bright` has no threshold of its own"):
        categories.predict(grey, category="bottle")
    assert categories.predict(grey, category="bottle")[0].anomalous is False
    words = "not trained on a category `cabel`, but on `bottle`, .*Did you mean `cable`"
    with pytest.raises(UnknownNameError, match=words):
        categories.predict(grey, category="cabel")


def test_a_threshold_can_be_chosen_for_once(categories, root):
    grey = np.full((32, 32, 3), 80, dtype=np.uint8)
    (found,) = categories.predict(grey, threshold=80 / 255)
    assert found.normalized == pytest.approx(0.5, abs=1e-5)
    assert categories.predict(grey, threshold=0.3, category="cable")[0].anomalous is True
    assert categories.predict(grey, threshold=0.32, category="cable")[0].anomalous is False
    assert categories.threshold == 0.5
    with pytest.raises(SettingError, match="`threshold`"):
        categories.predict(grey, threshold=float("nan"))
    make_export(root / "none", calibration=None)
    without = load(root / "none", threads=1)
    (found,) = without.predict(grey)
    assert (found.normalized, found.anomalous, found.verdict) == (None, None, "unknown")
    assert without.threshold is None
    with pytest.raises(SettingError, match=r"has no calibration.*ad calibrate /.*none --normals"):
        without.predict(grey, threshold=0.3)


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ({"engine": "torch"}, "was set in fp32 by torch on `cpu`; .* in fp32 by onnxruntime on"),
        ({"precision": "bf16"}, "was set in bf16 by onnxruntime on `cpu`; .* in fp32 by onnxrunt"),
        ({"threads": 3}, "on `cpu` with 3 threads; .* with 1 thread and differ a little"),
        (
            {"device": "cuda", "threads": 3},
            r"on `cuda`; .* on `cpu` and differ .*ad calibrate /.* -",
        ),
        ({"version": "0"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_a_threshold_of_other_conditions_is_told(tmp_path, then, words):
    make_export(tmp_path / "e", calibrated_on=here(**then))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        load(tmp_path / "e", threads=1)
    if words is None:
        assert told == []
    else:
        (one,) = told
        assert one.filename == __file__
        assert re.search(words, str(one.message))


def test_more_threads_than_cores_are_told(root, monkeypatch):
    monkeypatch.setattr("ad.runtime.runtime.usable_threads", lambda: 2)
    load(root / "plain", threads=2)
    with pytest.warns(UserWarning, match="^3 threads are more than there are cores to use here, 2"):
        load(root / "plain", threads=3)
    for threads, workers in ((1, 9), (2, 1)):  # processes with a thread each share cores well
        warn_of_more_threads_than_cores(threads, workers)
    with pytest.warns(UserWarning, match=r"^4 threads \(2 processes with 2 each\) are more"):
        warn_of_more_threads_than_cores(2, 2)


def test_several_threads_share_a_runtime(root):
    runtime = tiled(root)
    pictures = [picture(96, 96, seed=seed, most=256) for seed in range(4)]
    expected = [runtime.predict(one)[0] for one in pictures]

    def work(number):
        found = [runtime.predict(pictures[number], batch_size=3)[0] for _ in range(5)]
        own = expected[number]
        return all(one.score == own.score and np.array_equal(one.map, own.map) for one in found)

    assert at_once(work) == [True] * 4


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True])
def test_batches_of_no_size_are_refused(runtime, batch_size):
    with pytest.raises(SettingError, match=f"`batch_size` must be .* got {batch_size}"):
        runtime.predict(picture(), batch_size=batch_size)


def test_nothing_to_score_is_refused(runtime, tmp_path):
    with pytest.raises(DataError, match="There is no picture to score"):
        runtime.predict([])
    with pytest.raises(DataError, match="There is no picture or folder"):
        runtime.predict(tmp_path / "nothing")
    with pytest.raises(PathError, match="An empty path was given for the exported model"):
        load("")


def test_a_region_needs_a_map(tmp_path):
    region = Region(np.ones((32, 32), dtype=bool))
    with pytest.raises(ModelFileError, match="`roi` is for models that have a map"):
        make_export(
            tmp_path / "e", framing=Framing(size=Size(32, 32), region=region), localises=False
        )


def test_without_maps_tiles_give_the_highest_score(tmp_path):
    # The graph needs no map to be cut.
    framing = Framing(size=Size(64, 64), tiling=Tiling.of(Size(64, 64), 32))
    make_export(tmp_path / "e", framing=framing, localises=False)
    pixels = picture(96, 96, most=256)
    (found,) = load(tmp_path / "e", threads=1).predict(pixels)
    assert found.map is None
    assert found.score == pytest.approx(brightness(pixels[None])[0][0], abs=1e-6)


def test_findings_are_the_same_kind_as_those_of_a_run(runtime):
    (found,) = runtime.predict(picture())
    assert replace(found, path=None) == found
    assert set(ad.runtime.__all__) == {"Calibration", "Finding", "Runtime", "load"}
    assert type(found) is ad.runtime.Finding
    with pytest.raises(AttributeError, match="module `ad.runtime` has no attribute `train`"):
        _ = ad.runtime.train


def test_predicting_loads_neither_torch_nor_another_engine(runtime, tmp_path):
    (tmp_path / "a.png").write_bytes(png(picture()))
    code = "import sys, ad.runtime\n"
    code += "(found,) = ad.runtime.load(sys.argv[1]).predict(sys.argv[2])\n"
    code += "print(found.score, *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, runtime.package.path, tmp_path / "a.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    score, *modules = done.stdout.split()
    assert float(score) == runtime.predict(tmp_path / "a.png")[0].score
    heavy = {"torch", "scipy", "timm", "pydantic", "typer", "openvino", "ad.core"}
    assert not heavy & {*modules}
