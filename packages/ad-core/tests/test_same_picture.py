"""One picture has one score, whether it comes as a path, an image, the bytes of a file or an array.

The arrays are what Pillow itself makes of the files.
"""

import contextlib
import io

import numpy as np
import pytest
import torch
from deep_files import write_png, write_tiff
from PIL import Image, ImageOps

from ad.core import LoadedDetector
from ad.core.framing import Framing
from ad.core.predict import ModelConfig
from ad.core.testing.mean_picture import MeanPictureDetector
from ad.runtime.framing.size import Size
from ad.runtime.pictures.opening import drawn_jpeg, drawn_png

SIDE = 16


@pytest.fixture
def detector():
    """Its map says of each pixel how far it is from another picture's; white has 12 bits."""
    model = MeanPictureDetector(gain=1.0, img_size=Size(SIDE, SIDE))
    model.mean = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    config = ModelConfig(
        model="mean-picture",
        options={"gain": 1.0},
        framing=Framing(size=Size(SIDE, SIDE)),
        normalize=False,
        precision="fp32",
        categories=("toy",),
        calibration=None,
        calibrated_on=None,
        white_level=4095,
    )
    return LoadedDetector(model, config, torch.device("cpu"))


@pytest.fixture
def opening():
    """`Image.open`, of images that are closed behind the test."""
    with contextlib.ExitStack() as stack:
        yield lambda file: stack.enter_context(Image.open(file))


def noise(*shape, largest=255):
    values = np.random.default_rng(0).integers(0, largest + 1, shape)
    return values.astype(np.uint8 if largest == 255 else np.uint16)


def whole(path):
    """Upright and in RGB, as Pillow decodes it."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        return np.asarray(upright.convert("RGBA") if upright.mode == "P" else upright)[..., :3]


def saved(path, image, **options):
    image.save(path, **options)
    return path, whole(path)


def orientation(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def png(folder):
    return saved(folder / "a.png", Image.fromarray(noise(40, 50, 3)))


def large_jpeg(folder):
    """Of several times the side that is seen, where it could be decoded at a fraction."""
    return saved(folder / "a.jpg", Image.fromarray(noise(8 * SIDE, 10 * SIDE, 3)), quality=95)


def turned_jpeg(folder):
    image = Image.fromarray(noise(4 * SIDE, 8 * SIDE, 3))
    return saved(folder / "a.jpg", image, exif=orientation(6))


def turned_tiff(folder):
    return saved(folder / "a.tif", Image.fromarray(noise(40, 50, 3)), exif=orientation(8))


def transparent_palette(folder):
    image = Image.fromarray(noise(40, 50, 3)).quantize(16)
    return saved(folder / "a.png", image, transparency=3)


def alpha(folder):
    return saved(folder / "a.webp", Image.fromarray(noise(40, 50, 4)), lossless=True)


def cmyk(folder):
    path = folder / "a.jpg"
    Image.fromarray(noise(40, 50, 3)).convert("CMYK").save(path)
    with Image.open(path) as image:
        return path, np.asarray(image.convert("RGB"))


def deep_grey(folder):
    values = noise(40, 50, largest=4095)
    path = folder / "a.png"
    Image.fromarray(values).save(path)
    return path, values


def floating(folder):
    values = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    Image.fromarray(values).save(folder / "a.tif")
    return folder / "a.tif", values


def deep_colour_png(folder):
    values = noise(40, 50, 3, largest=4095)
    return write_png(folder / "a.png", values), values


def deep_colour_tiff(folder):
    values = noise(40, 50, 3, largest=4095)
    return write_tiff(folder / "a.tif", values), values


def stated_white(folder):
    """A PGM that says that 1023 is white, which Pillow scales to 16 bits."""
    values = noise(40, 50, largest=1023)
    path = folder / "a.pgm"
    path.write_bytes(b"P5 50 40 1023\n" + values.astype(">u2").tobytes())
    return path, (values / 1023).astype(np.float32)


KINDS = [png, large_jpeg, turned_jpeg, turned_tiff, transparent_palette, alpha, cmyk, deep_grey]
KINDS += [floating]
DEEP_COLOURS = [deep_colour_png, deep_colour_tiff]


def named(kind):
    return kind.__name__


def loaded(image):
    image.load()
    return image


@pytest.mark.parametrize("kind", [*KINDS, *DEEP_COLOURS], ids=named)
def test_the_same_picture_has_the_same_score_whatever_it_comes_as(
    detector, tmp_path, opening, kind
):
    path, array = kind(tmp_path)
    content = path.read_bytes()
    images = [opening(path), opening(io.BytesIO(content))]
    if kind in KINDS:
        images += [loaded(opening(path)), loaded(opening(path)).copy()]
    encoded = [content, bytearray(content), memoryview(content)]
    findings = detector.predict([path, str(path), array, *images, *encoded], batch_size=3)
    assert [finding.error for finding in findings] == [None] * len(findings)
    assert [finding.path for finding in findings] == [path, path] + [None] * (len(findings) - 2)
    assert {finding.score for finding in findings} == {findings[0].score}
    for finding in findings:
        np.testing.assert_array_equal(finding.map, findings[0].map)
    assert findings[0].map.std() > 0.05
    for alone in (array, images[0], *encoded):
        assert detector.predict(alone)[0].score == findings[0].score


def test_a_white_level_that_the_file_states_counts_for_images_too(detector, tmp_path, opening):
    path, exact = stated_white(tmp_path)
    images = [opening(path), loaded(opening(path))]
    by_path, *others = detector.predict([path, path.read_bytes(), *images])
    for finding in others:
        np.testing.assert_array_equal(finding.map, by_path.map)
    np.testing.assert_allclose(by_path.map, detector.predict(exact)[0].map, atol=2 / 255)


def test_an_image_may_be_made_by_code(detector):
    pixels = noise(40, 50, 3)
    grey = noise(40, 50, largest=4095)
    made = [Image.fromarray(pixels), Image.fromarray(grey)]
    for image, array in zip(made, [pixels, grey], strict=True):
        by_image, by_array = detector.predict([image, array])
        np.testing.assert_array_equal(by_image.map, by_array.map)


def test_an_image_stays_as_it_was_and_may_come_several_times(detector, tmp_path, opening):
    path, array = large_jpeg(tmp_path)
    image = opening(path)
    findings = detector.predict([image] * 12)
    assert {finding.score for finding in findings} == {detector.predict(path)[0].score}
    np.testing.assert_array_equal(np.asarray(image), array)
    again = detector.predict([image, image])
    assert again[0].score == again[1].score == findings[0].score


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_an_image_that_was_decoded_needs_its_file_no_more(detector, tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(40, 50)).save(path, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as image:
        image.load()
    expected = detector.predict(path)[0].map
    np.testing.assert_array_equal(detector.predict(image)[0].map, expected)
    path.unlink()
    np.testing.assert_array_equal(detector.predict(image)[0].map, expected)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"^The picture is empty \(0 bytes\)\. Pass the whole content of a picture's file"),
        (b"a.png", r"^The picture in 5 bytes cannot be read \(it begins as no known format does"),
        ("cut", r"^The picture in \d,\d{3} bytes cannot be read .*truncated.*pass the whole"),
    ],
)
def test_bytes_that_are_no_picture_are_told_of_and_the_others_scored(
    detector, tmp_path, content, words
):
    path, array = png(tmp_path)
    if content == "cut":
        content = path.read_bytes()[:-600]
    first, broken, last = detector.predict([array, content, path])
    assert broken.score is broken.path is broken.map is None
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(broken.error)
    assert first.score == last.score is not None


def closed(folder, opening):
    with Image.open(png(folder)[0]) as image:
        return image


def wide(folder, opening):
    return Image.new("L", (200, 60))


def sheet(folder, opening):
    return opening(io.BytesIO(drawn_png(Image.new("RGB", (20, 20)))))


def lossy_sheet(folder, opening):
    return opening(io.BytesIO(drawn_jpeg(Image.new("RGB", (20, 20)))))


def without_pixels(folder, opening):
    return Image.new("RGB", (0, 5))


def decoded_tiff(folder, opening):
    """Nothing but its tags tells how deep it was."""
    return loaded(opening(io.BytesIO(deep_colour_tiff(folder)[0].read_bytes())))


def decoded_png(folder, opening):
    return loaded(opening(deep_colour_png(folder)[0]))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            closed,
            r"^The PIL image \(RGB, 50 x 40 pixels\) cannot be read: its file is closed\. Pass",
        ),
        (wide, r"^The PIL image \(L, 200 x 60 pixels\) has more than 9,000 pixels, the most that"),
        (sheet, r"^The picture in \d+ bytes is a heat map or another sheet that `ad` drew"),
        (lossy_sheet, r"^The picture in \d+ bytes is a heat map or another sheet that `ad` drew"),
        (without_pixels, r"^The PIL image \(RGB, 0 x 5 pixels\) has no pixels"),
        (decoded_png, r"16 bits a channel, of which Pillow keeps 8 .*the image as `Image\.open`"),
        (decoded_tiff, r"16 bits a channel, of which Pillow keeps 8 .*Pass the file's path or its"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_image_that_cannot_be_used_is_told_of(
    detector, tmp_path, monkeypatch, opening, kind, words
):
    image = kind(tmp_path, opening)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9000)
    broken, good = detector.predict([image, noise(40, 50, 3)])
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(broken.error)
    assert broken.score is None
    assert good.score is not None
