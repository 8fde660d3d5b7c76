"""Which mask is of which picture."""

import numpy as np
import pytest
from PIL import Image

from ad.core.errors import DataError
from ad.core.testing.pictures import make_picture
from ad.core.testing.pictures import put_pictures as put
from ad.runtime.pictures.masks import MaskTree, look_of, masks_by_stem, sort_folder, tell_apart


def draw(path, what):
    """A photograph of a part, or the mask of a defect."""
    picture, mask = make_picture(0, size=32, defect=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = picture if what == "part" else mask.astype(np.uint8) * 255
    Image.fromarray(pixels).save(path)


def sorted_names(folder):
    pictures, masks = sort_folder(folder)
    own = {p.name: [m.relative_to(folder).as_posix() for m in found] for p, found in masks.items()}
    return [p.relative_to(folder).as_posix() for p in pictures], own


def test_masks_beside_their_pictures_are_none_of_them(tmp_path):
    put(tmp_path, "0.png", "0_mask.png", "1.jpg", "mask_1.png", "2.png")
    assert sorted_names(tmp_path) == (
        *(["0.png", "1.jpg", "2.png"], {"0.png": ["0_mask.png"], "1.jpg": ["mask_1.png"]}),
    )


def test_what_is_named_as_a_mask_but_of_no_picture_is_a_picture(tmp_path):
    put(tmp_path, "blue_label.png", "red_label.png")
    assert sorted_names(tmp_path) == (["blue_label.png", "red_label.png"], {})


def test_masks_in_a_folder_among_the_pictures_are_found(tmp_path):
    put(tmp_path, "0.png", "day2/1.png", "masks/0.png", "masks/day2/1_gt.png")
    assert sorted_names(tmp_path) == (
        *(["0.png", "day2/1.png"], {"0.png": ["masks/0.png"], "1.png": ["masks/day2/1_gt.png"]}),
    )


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_of_two_files_of_one_stem_the_drawn_one_is_the_mask(tmp_path, suffix):
    draw(tmp_path / "0.jpg", "part")
    draw(tmp_path / f"0{suffix}", "mask")
    assert sorted_names(tmp_path) == (["0.jpg"], {"0.jpg": [f"0{suffix}"]})


def test_two_photographs_of_one_stem_are_two_pictures(tmp_path):
    draw(tmp_path / "0.jpg", "part")
    draw(tmp_path / "0.png", "part")
    assert sorted_names(tmp_path) == (["0.jpg", "0.png"], {})


def test_masks_and_pictures_are_told_apart_without_asking_which_is_of_which(tmp_path):
    put(tmp_path, "0.png", "0_mask.png", "0_gt.png", "masks/0.png")
    pictures, masks = tell_apart(tmp_path)
    assert [path.name for path in pictures] == ["0.png"]
    assert [path.name for path in masks] == ["0_gt.png", "0_mask.png", "0.png"]
    with pytest.raises(DataError, match="There are 3 masks of the picture"):
        sort_folder(tmp_path)


def test_numbered_masks_count_together(tmp_path):
    put(tmp_path, "0.png", "0_mask_1.png", "0_mask_2.png")
    assert sorted_names(tmp_path)[1] == {"0.png": ["0_mask_1.png", "0_mask_2.png"]}


def test_one_mask_of_two_pictures_is_refused(tmp_path):
    put(tmp_path, "0.png", "0.jpg", "0_mask.png")
    with pytest.raises(DataError, match=r"0_mask\.png` fits several pictures beside it, `0\.jpg`"):
        sort_folder(tmp_path)
    tree = MaskTree(put(tmp_path / "masks", "7.png"))
    assert tree.of(tmp_path / "dent/7.png", ("dent",), ()) == (tmp_path / "masks/7.png",)
    words = r"fits two pictures, `.*dent/7\.png` and `.*rust/7\.png`.*such as `.*masks/rust/7\.png`"
    with pytest.raises(DataError, match=words):
        tree.of(tmp_path / "rust/7.png", ("rust",), ())


def test_two_masks_of_one_picture_are_refused(tmp_path):
    tree = MaskTree(put(tmp_path / "masks", "dent/7.png", "dent/7_mask.png"))
    with pytest.raises(DataError, match=r"2 masks of .*7\.png`: .*7\.png`, .*7_mask\.png`\. Keep"):
        tree.of(tmp_path / "7.png", ("dent",))
    elsewhere = MaskTree(put(tmp_path / "gt", "dent/8.png", "8.png"))
    with pytest.raises(DataError, match="There are 2 masks of the picture"):
        elsewhere.of(tmp_path / "dent/8.png", ("dent",), ())
    with pytest.raises(DataError, match="There are 2 masks of the picture `7`"):
        masks_by_stem(tmp_path / "masks/dent")


def test_another_case_is_found_where_the_very_name_is_not_there(tmp_path):
    tree = MaskTree(put(tmp_path / "masks", "Dent/img_1.PNG", "rust/a.png", "Rust/a.png"))
    assert [m.name for m in tree.of(tmp_path / "dent/IMG_1.jpg", ("dent",))] == ["img_1.PNG"]
    assert tree.of(tmp_path / "rust/a.jpg", ("rust",)) == (tmp_path / "masks/rust/a.png",)


def test_masks_of_which_none_fits_are_refused_but_for_those_of_good_parts(tmp_path):
    tree = MaskTree(put(tmp_path / "masks", "dents/7.png", "good/0.png"))
    pictures = [tmp_path / "dent/7.png"]
    assert tree.of(pictures[0], ("dent",), ()) == ()
    tree.require_use(pictures, ("dent",))
    tree.require_use([])
    with pytest.raises(DataError, match=r"None of the 1 masks in .*`7\.png`.*needed for .*dent/7"):
        tree.require_use(pictures)
    good = MaskTree(put(tmp_path / "gt", "good/0.png"))
    good.require_use(pictures)


def test_a_mask_is_told_from_a_photograph_by_what_it_shows(tmp_path):
    draw(tmp_path / "part.png", "part")
    draw(tmp_path / "mask.png", "mask")
    put(tmp_path, "black.png")
    put(tmp_path, "white.png", grey=255)
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG")
    names = ("part", "mask", "black", "white", "damaged")
    looks = [look_of(tmp_path / f"{name}.png") for name in names]
    assert [one and tuple(one) for one in looks] == [
        *((False, False), (True, False), (True, True), (True, True), None)
    ]


def test_a_mask_with_soft_edges_is_one_and_a_pale_photograph_is_none(tmp_path):
    _, mask = make_picture(0, size=64, defect=True)
    soft = Image.fromarray(mask.astype(np.uint8) * 255).resize((160, 160), Image.Resampling.BICUBIC)
    soft.save(tmp_path / "soft.png")
    soft.save(tmp_path / "soft.jpg", quality=60)
    picture, _ = make_picture(0, size=64)
    grey = np.asarray(Image.fromarray(picture).convert("L"), dtype=float)
    for name, low, high in (("pale", 90, 150), ("dark", 0, 100), ("full", 0, 255)):
        spread = (grey - grey.min()) / (grey.max() - grey.min()) * (high - low) + low
        Image.fromarray(spread.astype(np.uint8)).save(tmp_path / f"{name}.jpg", quality=90)
        Image.fromarray(spread.astype(np.uint8)).save(tmp_path / f"{name}.png")
    found = {path.name for path in tmp_path.iterdir() if (one := look_of(path)) and one.drawn}
    assert found == {"soft.png", "soft.jpg"}


@pytest.mark.parametrize("grey", [0, 255])
def test_a_picture_and_a_blank_one_of_one_stem_are_a_part_and_its_mask(tmp_path, grey):
    draw(tmp_path / "0.jpg", "part")
    put(tmp_path, "0.png", grey=grey)
    assert sorted_names(tmp_path) == (["0.jpg"], {"0.jpg": ["0.png"]})


def test_a_mask_the_wrong_way_round_beside_its_picture_is_its_mask(tmp_path):
    draw(tmp_path / "0.jpg", "part")
    _, mask = make_picture(0, size=32, defect=True)
    Image.fromarray(255 - mask.astype(np.uint8) * 255).save(tmp_path / "0.png")
    assert sorted_names(tmp_path) == (["0.jpg"], {"0.jpg": ["0.png"]})


def test_a_dark_photograph_with_a_bright_scratch_was_not_drawn(tmp_path):
    dark = np.random.default_rng(0).integers(1, 12, (64, 64)).astype(np.uint8)
    dark[30:33] = 240
    Image.fromarray(dark).save(tmp_path / "dark.png")
    assert look_of(tmp_path / "dark.png") == (False, False)


def test_accents_and_suffixes_of_pictures_in_names_of_masks_make_no_difference(tmp_path):
    composed, parted = "Stoß_\u00fc", "Stoß_u\u0308"  # as Windows and as older Macs write it
    tree = MaskTree(put(tmp_path / "masks", f"{composed}/{parted}.png", "dent/1.jpg.png"))
    (mask,) = tree.of(tmp_path / f"{parted}/{composed}.png", (parted,))
    assert mask.name == f"{parted}.png"
    assert [m.name for m in tree.of(tmp_path / "dent/1.jpg", ("dent",))] == ["1.jpg.png"]
