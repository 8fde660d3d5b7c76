"""Shapes and colours that are not those of most pictures, as their headers tell."""

import json

import numpy as np
import pytest
from PIL import Image
from report_pages import Page

from ad.core import train
from ad.core.data.contents import check_pictures
from ad.core.data.samples import Sample
from ad.core.framing import Framing
from ad.runtime.framing import Crop, Size
from ad.runtime.framing.tiles import Tiling


def put(path, height, width, mode="RGB", **options):
    """Noise, which is no mask and no copy of another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([*path.name.encode()])
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def sample(path, category="c"):
    return Sample(path, 0, "train", category)


@pytest.fixture
def wide(tmp_path):
    return [sample(put(tmp_path / f"{n}.png", 20, 100)) for n in range(5)]


def test_pictures_of_another_shape_than_the_common_one_are_told_where_they_are_stretched(
    wide, tmp_path
):
    one = sample(put(tmp_path / "one.png", 48, 64))
    two = sample(put(tmp_path / "two.png", 100, 20))
    (note,) = check_pictures([one, *wide, two], stretched=True)
    assert note == (
        f"2 of 7 pictures have another shape than the most common one: `{one.path}` (48 x 64), "
        f"where `{wide[0].path}` (20 x 100) is common (height x width). All are stretched to one "
        'shape, so that the same part looks different in them. `--fit pad` (`fit="pad"` in '
        "Python) keeps the shape of each."
    )
    assert check_pictures([one, *wide, two]) == []


@pytest.mark.parametrize(
    ("height", "width", "told"),
    [(20, 80, False), (20, 79, True), (20, 125, False), (20, 126, True), (40, 200, False)],
)
def test_a_shape_is_another_one_from_a_quarter_on(wide, tmp_path, height, width, told):
    other = sample(put(tmp_path / "other.png", height, width))
    assert bool(check_pictures([*wide, other], stretched=True)) is told


def test_the_common_shape_is_that_of_the_most_that_are_about_alike(tmp_path):
    # No two are the same; by the median of all, the two in the middle would be common.
    sides = [(100, 31), (100, 33), (100, 32), (100, 90), (100, 89), (60, 100), (61, 100), (62, 100)]
    sides.append((63, 100))
    found = [sample(put(tmp_path / f"{n}.png", *one)) for n, one in enumerate(sides)]
    (note,) = check_pictures(found, stretched=True)
    assert "5 of 9 pictures" in note
    assert f"where `{found[5].path}` (60 x 100) is common" in note


def test_a_picture_that_is_turned_by_its_exif_has_the_shape_that_is_seen(wide, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = sample(put(tmp_path / "turned.jpg", 100, 20, exif=exif))
    assert check_pictures([*wide, turned], stretched=True) == []


def test_each_category_has_its_own_common_shape_and_colours(wide, tmp_path):
    other = [sample(put(tmp_path / f"o{n}.png", 64, 48, "L"), "other") for n in range(2)]
    assert check_pictures([*wide, *other], stretched=True) == []
    other.append(sample(put(tmp_path / "o3.png", 20, 100), "other"))
    shape, colours = check_pictures([*wide, *other], stretched=True)
    assert shape.startswith(
        f"1 of 8 pictures have another shape than the most common one: `{other[2].path}`"
    )
    assert colours.startswith("2 of 3 pictures are saved in grey")


@pytest.mark.parametrize(("suffix", "mode"), [(".png", "L"), (".jpg", "L"), (".png", "LA")])
def test_grey_among_coloured_pictures_is_told(wide, tmp_path, suffix, mode):
    grey = sample(put(tmp_path / f"grey{suffix}", 20, 100, mode))
    (note,) = check_pictures([*wide, grey])
    assert note == (
        f"1 of 6 pictures are saved in grey, such as `{grey.path}`, and 5 in colours, such as "
        f"`{wide[0].path}`. If these show any, grey ones look odd to a model beside them: save all "
        "as those will be that it is to judge."
    )


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparency_and_palettes_among_coloured_pictures_are_not_told(wide, tmp_path, mode):
    assert check_pictures([*wide, sample(put(tmp_path / "other.png", 20, 100, mode))]) == []


def test_only_what_is_stretched_as_it_comes_is_told():
    size = Size(32, 32)
    assert Framing(size=size).stretches
    for framing in (
        Framing(size=size, fit="pad"),
        Framing(size=size, fit="crop", resize=Size(40, 40)),
        Framing(size=size, crop=Crop(0, 0, 20, 20)),
        Framing(size=size, tiling=Tiling.of(size)),
    ):
        assert not framing.stretches


def test_a_training_and_ad_data_show_tell_it_and_padding_ends_it(mean_picture, run_ad, tmp_path):
    for n in range(9):
        put(tmp_path / f"parts/good/{n}.png", 20, 100)
    put(tmp_path / "parts/good/9.png", 48, 64, "L")
    result = train("folder", tmp_path / "parts", mean_picture, output_dir=tmp_path / "run")
    notes = [one for one in result.notes if one.startswith("1 of 10 pictures ")]
    assert len(notes) == 2
    assert {*notes} <= {*Page(tmp_path / "run/report.html").data["notes"]}
    status, out, _ = run_ad("data", "show", "folder", tmp_path / "parts", "--json")
    assert status == 0
    assert json.loads(out)["notes"] == notes
    padded = train(
        "folder", tmp_path / "parts", mean_picture, output_dir=tmp_path / "padded", fit="pad"
    )
    assert [one for one in padded.notes if one.startswith("1 of 10 pictures ")] == notes[1:]
