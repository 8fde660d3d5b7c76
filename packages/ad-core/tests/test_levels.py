"""White in pictures of more than 8 bits: known, found, kept with the model, or refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from deep_files import write_png, write_tiff
from PIL import Image

from ad.core import evaluate, load, train
from ad.core.data.batches import PictureSet
from ad.core.errors import ModelFileError, PictureError
from ad.core.jobs.inspect import inspect
from ad.core.jobs.recalibrate import recalibrate
from ad.core.predict import ModelConfig
from ad.core.saved.files import read_model
from ad.core.synth.preview import preview
from ad.core.testing.pictures import make_picture
from ad.runtime.pictures.drawn import mask_facts
from ad.runtime.pictures.levels import WHITE_LEVELS, find_white_level
from ad.runtime.pictures.reading import read_picture, rgb_array


def random_values(largest, channels, *, seed=0):
    values = np.random.default_rng(seed).integers(0, largest + 1, (9, 6, channels))
    values[0, 0] = largest
    return values.astype(np.uint16)


def save(path, values):
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("white", WHITE_LEVELS)
def test_white_becomes_255_and_the_rest_in_proportion(white):
    values = np.linspace(0, white, 50).astype(np.uint16).reshape(5, 10)
    picture = rgb_array(values, white=white)
    exact = values[..., None] * (255 / white)
    assert np.abs(picture - exact).max() < 1
    assert (picture[0, 0, 0], picture[-1, -1, 0]) == (0, 255)


@pytest.mark.parametrize("largest", [1, 255, 4095, 16383])
def test_values_whose_white_nobody_knows_are_refused(tmp_path, largest):
    values = random_values(largest, 1)
    words = (
        rf"holds 16-bit values up to {largest}, and it is not known which value is white.*"
        "Scale the values to 8 bits or to the full 16, or train with such pictures"
    )
    with pytest.raises(PictureError, match=f"^The array {words}"):
        rgb_array(values)
    with pytest.raises(PictureError, match=rf"^The picture `.*a\.png` {words}"):
        read_picture(save(tmp_path / "a.png", values[..., 0]))
    with pytest.raises(PictureError, match=rf"^The picture `.*c\.png` {words}"):
        read_picture(write_png(tmp_path / "c.png", random_values(largest, 3)))


def test_values_that_need_all_bits_tell_their_white(tmp_path):
    values = random_values(16384, 1)
    np.testing.assert_array_equal(rgb_array(values)[..., 0], values[..., 0] >> 8)
    found = read_picture(save(tmp_path / "a.png", values[..., 0]))
    np.testing.assert_array_equal(found[..., 0], values[..., 0] >> 8)


def test_values_above_white_are_refused(tmp_path):
    words = r"has values up to 4096, but white is 4095 \(12 bits\) in the pictures that were learnt"
    with pytest.raises(PictureError, match=f"^The array {words}"):
        rgb_array(random_values(4096, 3), white=4095)
    with pytest.raises(PictureError, match=rf"a\.png` {words}.*or train again"):
        read_picture(save(tmp_path / "a.png", random_values(4096, 1)[..., 0]), white=4095)


def test_a_picture_that_is_nearly_black_beside_the_others_is_told_of(tmp_path):
    path = save(tmp_path / "a.png", random_values(255, 1)[..., 0])
    with pytest.warns(UserWarning, match=r"^No value of the picture `.*a\.png` is above 255, and"):
        read_picture(path, white=4095)
    save(path, random_values(256, 1)[..., 0])
    read_picture(path, white=4095)  # and without a warning


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_all_bits_of_a_png_count(tmp_path, channels):
    values = random_values(4095, channels)
    values[..., 3:] = 65535  # alpha is no colour
    if channels == 2:
        values[..., 1] = 65535
    path = write_png(tmp_path / "a.png", values)
    assert find_white_level([path]).value == 4095
    colours = values[..., :3] if channels > 2 else values[..., :1]
    np.testing.assert_array_equal(
        read_picture(path, white=4095), np.broadcast_to(colours >> 4, (9, 6, 3))
    )


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_all_bits_of_a_tiff_count(tmp_path, channels, order, deflated):
    values = random_values(4095, channels)
    values[..., 3:] = 65535
    path = write_tiff(tmp_path / "a.tif", values, order=order, deflated=deflated)
    assert find_white_level([path]).value == 4095
    expected = np.broadcast_to(values[..., :3] >> 4, (9, 6, 3))
    np.testing.assert_array_equal(read_picture(path, white=4095), expected)


def test_deep_colours_are_upright(tmp_path):
    values = random_values(65535, 3)
    turned = (values >> 8).swapaxes(0, 1)[:, ::-1]  # a quarter clockwise
    path = write_tiff(tmp_path / "a.tif", values, tags=[(274, [6])])
    np.testing.assert_array_equal(read_picture(path), turned)
    tag = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    path = write_png(tmp_path / "a.png", values, chunks=[(b"eXIf", tag[6:])])
    np.testing.assert_array_equal(read_picture(path), turned)


def test_planes_that_pillow_decodes_wrongly_are_refused(tmp_path):
    path = write_tiff(tmp_path / "a.tif", random_values(65535, 3), planar=True)
    for read in (read_picture, lambda path: find_white_level([path])):
        with pytest.raises(PictureError, match=r"a\.tif.*in planes, uncompressed.*interleaved"):
            read(path)
    values = random_values(65535, 3)
    path = write_tiff(tmp_path / "b.tif", values, planar=True, deflated=True)
    np.testing.assert_array_equal(read_picture(path), values >> 8)


def test_a_file_that_says_its_bits_is_taken_at_its_word(tmp_path):
    values = random_values(1000, 1)
    packed = write_tiff(tmp_path / "packed.tif", values, bits=12)
    np.testing.assert_array_equal(read_picture(packed)[..., 0], values[..., 0] >> 4)
    tagged = write_tiff(tmp_path / "tagged.tif", values, tags=[(281, [4095])])
    np.testing.assert_array_equal(read_picture(tagged, white=1023)[..., 0], values[..., 0] >> 4)
    colours = random_values(1000, 3)
    tagged = write_tiff(tmp_path / "rgb.tif", colours, tags=[(281, [4095] * 3)])
    np.testing.assert_array_equal(read_picture(tagged), colours >> 4)
    grey = tmp_path / "a.pgm"
    grey.write_bytes(b"P5 2 1 1000\n" + np.array([500, 1000], ">u2").tobytes())
    np.testing.assert_allclose(read_picture(grey)[0, :, 0], [127, 255], atol=1)


def test_a_file_whose_values_belie_it_is_refused(tmp_path):
    path = write_tiff(tmp_path / "a.tif", random_values(5000, 1), tags=[(281, [4095])])
    with pytest.raises(
        PictureError, match=r"up to 5000, but white is 4095 .* the file itself says"
    ):
        read_picture(path)


def test_the_largest_value_of_one_picture_is_not_its_white(tmp_path):
    path = write_tiff(tmp_path / "a.tif", random_values(1000, 1), tags=[(281, [1000])])
    assert find_white_level([path]).value == 1023
    # By its specification, a PNG's values are scaled to all 16 bits whatever its sBIT says.
    path = write_png(tmp_path / "a.png", random_values(60000, 1), chunks=[(b"sBIT", b"\x0c")])
    assert find_white_level([path]).value == 65535


def ppm(path, values):
    path.write_bytes(b"P6 6 9 65535\n" + values.astype(">u2").tobytes())
    return path


def test_colours_of_which_only_the_upper_bits_can_be_had_must_need_all(tmp_path):
    dark = ppm(tmp_path / "dark.ppm", random_values(4095, 3))
    words = r"dark\.ppm` cannot be used.*only the upper 8 can be read, which are at most 16 of 255"
    for read in (read_picture, lambda path: find_white_level([path])):
        with pytest.raises(PictureError, match=words):
            read(dark)
    values = random_values(65535, 3)
    bright = ppm(tmp_path / "bright.ppm", values)
    np.testing.assert_allclose(read_picture(bright), values / 257, atol=1)
    assert find_white_level([dark, bright]).value == 65535
    assert read_picture(dark, white=65535).max() == 16


@pytest.mark.parametrize(
    ("largest", "white"),
    [(0, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4096, 16383), (16384, 65535)],
)
def test_the_level_of_a_run_holds_its_largest_value(tmp_path, largest, white):
    paths = [save(tmp_path / f"{i}.png", random_values(i, 1)[..., 0]) for i in (0, largest)]
    found = find_white_level(paths)
    assert found.value == white
    assert len(found.notes) == 1
    assert f"is {largest}: {white} ({white.bit_length()} bits) is taken as white" in found.notes[0]


def test_pictures_of_eight_bits_are_not_decoded(tmp_path, monkeypatch):
    paths = [save(tmp_path / "a.png", np.zeros((4, 4), np.uint8))]
    Image.new("CMYK", (4, 4)).save(tmp_path / "a.jpg")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    monkeypatch.setattr(Image.Image, "load", None)
    paths += [tmp_path / "a.jpg", tmp_path / "a.tif"]
    assert find_white_level(paths) == (None, ())


def test_a_run_of_both_kinds_is_told_of(tmp_path):
    deep = save(tmp_path / "a.png", random_values(4095, 1)[..., 0])
    plain = save(tmp_path / "b.png", np.zeros((4, 4), np.uint8))
    found = find_white_level([deep, plain, plain])
    assert found.value == 4095
    assert found.notes[0].startswith("1 of 3 pictures have 16 bits a channel")
    assert found.notes[1].startswith("The other 2 pictures have a white of their own")


def test_what_all_files_say_is_the_level_for_those_that_do_not(tmp_path):
    twelve = write_tiff(tmp_path / "a.tif", random_values(1000, 1), tags=[(281, [4095])])
    ten = write_tiff(tmp_path / "b.tif", random_values(1000, 1), tags=[(281, [1023])])
    assert find_white_level([twelve, twelve]) == (4095, ())
    assert find_white_level([twelve, ten]) == (None, ())


def test_a_set_of_pictures_reads_all_by_its_level(tmp_path):
    values = random_values(4095, 1)[..., 0]
    file = save(tmp_path / "a.png", values)
    for cache in (False, True):
        pictures = PictureSet([file, values], 9, cache=cache, white=4095)
        for _ in range(2):
            (batch,) = pictures.batches(2)
            assert batch.pictures.max() > 100
            assert (batch.pictures[0] == batch.pictures[1]).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_mask_of_small_values_in_a_deep_file_is_not_black(tmp_path, channels):
    values = np.zeros((9, 6, channels), np.uint16)
    values[2:5, 1:3] = 200
    values[..., 3:] = 65535
    if channels == 2:
        values[..., 1] = 65535
    assert mask_facts(write_png(tmp_path / "m.png", values)) == (pytest.approx(6 / 54), True)
    path = write_tiff(tmp_path / "m.tif", values[..., :1].repeat(3, axis=2), tags=[(274, [6])])
    assert mask_facts(path) == (pytest.approx(6 / 54), True)
    with pytest.raises(PictureError, match=r"m\.ppm` cannot be used"):
        mask_facts(ppm(tmp_path / "m.ppm", values[..., :1].repeat(3, axis=2)))


def grey(index, *, defect=False):
    picture, mask = make_picture(index, size=32, defect=defect)
    return picture[..., 1].astype(np.uint16), mask


WRITERS = {
    "8 bits": lambda path, grey, gain: save(path, grey.astype(np.uint8)),
    "grey": lambda path, grey, gain: save(path, grey * gain),
    "colour": lambda path, grey, gain: write_png(path, np.repeat(grey[..., None] * gain, 3, 2)),
}


def learnt(root, model, kind, gain):
    """A run on the same pictures whatever files they are in."""
    for folder, indices, defect in (("good", range(14), False), ("dent", range(20, 24), True)):
        (root / "parts" / folder).mkdir(parents=True)
        for index in indices:
            path = root / "parts" / folder / f"{index}.png"
            WRITERS[kind](path, grey(index, defect=defect)[0], np.uint16(gain))
    return train("folder", str(root / "parts"), model, output_dir=root / "run", report=False)


@pytest.mark.parametrize("kind", ["grey", "colour"])
@pytest.mark.parametrize(("gain", "white"), [(1, 255), (16, 4095), (64, 16383), (256, 65535)])
def test_a_run_comes_out_the_same_whatever_its_bits(tmp_path, mean_picture, kind, gain, white):
    plain = learnt(tmp_path / "plain", mean_picture, "8 bits", 1)
    deep = learnt(tmp_path / "deep", mean_picture, kind, gain)
    assert deep.evaluation.scores == plain.evaluation.scores
    assert deep.threshold == plain.threshold
    assert deep.metrics["image_auroc"] == 1
    assert (plain.detector.config.white_level, deep.detector.config.white_level) == (None, white)
    assert any(f"{white} ({white.bit_length()} bits) is taken as white" in n for n in deep.notes)
    again = evaluate(deep.run, report=False)
    assert again.scores == plain.evaluation.scores
    files = sorted((tmp_path / "deep/parts/dent").iterdir())
    arrays = [grey(int(file.stem), defect=True)[0] * np.uint16(gain) for file in files]
    from_files = [finding.score for finding in deep.detector.predict(files)]
    assert from_files == [finding.score for finding in deep.detector.predict(arrays)]
    assert from_files == [f.score for f in plain.detector.predict(tmp_path / "plain/parts/dent")]


@pytest.fixture
def twelve(tmp_path, mean_picture):
    return learnt(tmp_path, mean_picture, "grey", 16)


def test_data_show_names_the_level_before_anything_is_learnt(tmp_path, run_ad):
    for index in range(3):
        (tmp_path / "good").mkdir(exist_ok=True)
        save(tmp_path / f"good/{index}.png", grey(index)[0] * np.uint16(16))
    for how in ([], ["--json"]):
        status, out, err = run_ad("data", "show", "folder", tmp_path, *how)
        assert status == 0
        assert "4095 (12 bits) is taken as white" in " ".join((out + err).split())


def test_the_level_is_kept_with_the_model(twelve, tmp_path):
    config = json.loads((twelve.run / "model/config.json").read_text())
    assert config["white_level"] == 4095
    new = tmp_path / "new/good"
    for folder, indices in ((new, range(40, 45)), (tmp_path / "new/dent", range(50, 53))):
        folder.mkdir(parents=True)
        for index in indices:
            values = grey(index, defect=folder != new)[0] * np.uint16(16)
            save(folder / f"{index}.png", values)
    before = [finding.score for finding in load(twelve.run).predict(new)]
    recalibrate(twelve.run, normals=new)
    recalibrate(twelve.run, validation=tmp_path / "new")
    loaded = load(twelve.run)
    assert loaded.config.white_level == 4095
    assert [finding.score for finding in loaded.predict(new)] == before
    with Image.open(inspect(twelve.run, [new]).rows[0].heatmap) as sheet:
        assert np.asarray(sheet).mean() > 60  # the picture in it is not black


def test_synthetic_defects_are_shown_on_scaled_pictures(tmp_path, mean_picture):
    learnt(tmp_path, mean_picture, "grey", 16)
    shown = preview("folder", str(tmp_path / "parts"), output=tmp_path / "sheet", count=2)
    with Image.open(shown.sheet) as sheet:
        assert np.asarray(sheet).mean() > 60
    assert any("4095 (12 bits)" in note for note in shown.notes)


def test_a_picture_beyond_the_level_is_a_row_with_its_error(twelve, tmp_path):
    too_bright = save(tmp_path / "bright.png", grey(1)[0] * np.uint16(256))
    right = tmp_path / "parts/good/1.png"
    first, second = load(twelve.run).predict([too_bright, right])
    assert first.score is None
    assert "but white is 4095 (12 bits)" in first.error
    assert second.error is None
    with pytest.raises(PictureError, match="^The array has values up to .* white is 4095"):
        load(twelve.run).predict(grey(1)[0] * np.uint16(256))


def test_a_model_of_eight_bits_refuses_what_it_cannot_scale(tmp_path, mean_picture):
    plain = learnt(tmp_path, mean_picture, "8 bits", 1)
    deep = save(tmp_path / "deep.png", grey(1)[0] * np.uint16(16))
    (finding,) = plain.detector.predict(deep)
    assert "it is not known which value is white" in finding.error
    with pytest.raises(PictureError, match="it is not known which value is white"):
        plain.detector.predict(grey(1)[0] * np.uint16(16))
    (full,) = plain.detector.predict(grey(1)[0] * np.uint16(256))
    assert full.score == plain.detector.predict(tmp_path / "parts/good/1.png")[0].score


def test_the_level_in_a_configuration_is_checked(twelve):
    _, values = read_model(twelve.run / "model")
    for wrong in (4096, True, "4095", 12):
        with pytest.raises(ModelFileError, match="malformed entry `white_level`"):
            ModelConfig.from_json({**values, "white_level": wrong}, Path("model"))
    del values["white_level"]  # as before it was recorded
    assert ModelConfig.from_json(values, Path("model")).white_level is None
