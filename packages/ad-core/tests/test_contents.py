"""What pictures and masks show, against what their names say."""

import shutil

import numpy as np
import pytest
from PIL import Image

from ad.core import evaluate, train
from ad.core.data.contents import check_pictures, copies_in_folds
from ad.core.data.samples import Sample
from ad.core.errors import DataError, PictureError
from ad.core.jobs.inspect import inspect
from ad.core.testing.pictures import make_picture, write_mvtec_tree


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def good_one(path, number=0):
    return Sample(write(path, make_picture(number, size=32)[0]), 0, "train", "c")


def bad_one(path, number=0, masks=()):
    picture = make_picture(1000 + number, size=32, defect=True)[0]
    return Sample(write(path, picture), 1, "test", "c", "dent", masks)


def mask_of(number):
    return make_picture(1000 + number, size=32, defect=True)[1].astype(np.uint8) * 255


@pytest.fixture
def samples(tmp_path):
    """Six good parts and three dents."""
    found = [good_one(tmp_path / f"good/g{n}.png", n) for n in range(6)]
    return found + [bad_one(tmp_path / f"dent/{n}.png", n) for n in range(3)]


def test_parts_and_their_masks_give_no_note(samples, tmp_path):
    mask = write(tmp_path / "masks/9.png", mask_of(9))
    assert check_pictures([*samples, bad_one(tmp_path / "dent/9.png", 9, (mask,))]) == []


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".jpg"])
def test_a_mask_that_is_taken_for_a_part_is_refused(samples, tmp_path, suffix):
    path = write(tmp_path / f"areas/1{suffix}", mask_of(1))
    words = (
        rf"1 of 10 pictures look like masks.*areas/1{suffix}`.*scored\. Rename .*/areas` to `masks`"
    )
    with pytest.raises(DataError, match=words):
        check_pictures([*samples, Sample(path, 1, "test", "c", "areas")])
    with pytest.raises(DataError, match="Read as a part it would be learnt from"):
        check_pictures([*samples, Sample(path, 0, "train", "c")])


def test_what_looks_like_a_mask_of_no_picture_is_told(samples, tmp_path):
    path = write(tmp_path / "areas/other.png", mask_of(1))
    note, grey = check_pictures([*samples, Sample(path, 1, "test", "c", "areas")])
    assert grey.startswith("1 of 10 pictures are saved in grey")
    assert "1 of 10 pictures look like masks" in note
    assert "`masks`" in note


def test_parts_that_are_seen_in_two_values_are_no_masks(tmp_path):
    found = [
        Sample(write(tmp_path / f"good/{n}.png", mask_of(n)), 0, "train", "c") for n in range(4)
    ]
    bad = Sample(write(tmp_path / "dent/0.png", mask_of(7)), 1, "test", "c", "dent")
    assert check_pictures([*found, bad]) == []


def test_copies_across_splits_and_labels_are_named(samples, tmp_path):
    copy = tmp_path / "test/copy.png"
    copy.parent.mkdir()
    shutil.copy(samples[2].path, copy)
    (note,) = check_pictures([*samples, Sample(copy, 0, "test", "c")])
    assert "1 picture to test or calibrate with is a copy of one to learn from" in note
    assert f"`{copy}` of `{samples[2].path}`" in note
    (note,) = check_pictures([*samples, Sample(copy, 1, "test", "c", "dent")])
    assert f"`{samples[2].path}` and `{copy}`: one of the two labels is wrong" in note
    assert check_pictures([*samples, Sample(copy, 0, "train", "c")]) == []


def test_copies_that_a_threshold_would_be_set_by_are_named(samples, mean_picture, tmp_path):
    copy = tmp_path / "good/copy.png"
    shutil.copy(samples[2].path, copy)
    good = [*samples[:6], Sample(copy, 0, "train", "c")]
    (note,) = copies_in_folds(good, [[0, 1, 2], [3, 4, 5, 6]])
    assert f"1 good picture is a copy of another, such as `{copy}` of `{good[2].path}`" in note
    assert copies_in_folds(good, [[0, 1, 2, 6], [3, 4, 5]]) == []
    assert copies_in_folds(good, []) == []
    for number in range(7):
        shutil.copy(samples[2].path, tmp_path / f"good/c{number}.png")

    def told(holdout):
        options = {"img_size": 32, "holdout": holdout, "report": False}
        run = train(
            "folder", tmp_path / "good", mean_picture, output_dir=tmp_path / str(holdout), **options
        )
        return [note for note in run.notes if "are copies of" in note]

    assert [note[:22] for note in told("cross")] == ["8 good pictures are co"]
    (note,) = told(0.5)
    assert "pictures to test or calibrate with are copies of pictures to learn from" in note
    assert told(0) == []


def test_pictures_of_one_size_in_bytes_are_no_copies(tmp_path):
    found = [good_one(tmp_path / f"good/g{n}.bmp", n) for n in range(3)]
    assert len({sample.path.stat().st_size for sample in found}) == 1
    middle = bytearray(found[0].path.read_bytes())
    middle[len(middle) // 3] ^= 1  # neither at the start nor in the middle nor at the end
    (tmp_path / "almost.bmp").write_bytes(middle)
    assert check_pictures([*found, Sample(tmp_path / "almost.bmp", 0, "test", "c")]) == []


def test_masks_without_a_defect_and_masks_the_wrong_way_round_are_told(samples, tmp_path):
    black = write(tmp_path / "masks/0.png", np.zeros((32, 32), np.uint8))
    found = [bad_one(tmp_path / "dent/10.png", 10, (black,))]
    (note,) = check_pictures([*samples, *found])
    assert "1 of 1 defective pictures with masks have no defective pixel" in note
    assert f"`{found[0].path}` with `{black}`" in note
    inverted = [write(tmp_path / f"masks/i{n}.png", 255 - mask_of(n)) for n in range(3)]
    found = [bad_one(tmp_path / f"dent/i{n}.png", 20 + n, (m,)) for n, m in enumerate(inverted)]
    (note,) = check_pictures([*samples, *found])
    share = np.mean(np.asarray(Image.open(inverted[0])) > 0)
    assert f"Masks mark {share:.0%} of a picture as defective (median of 3" in note
    assert "invert them" in note


def test_a_mask_of_two_pictures_is_told(samples, tmp_path):
    mask = write(tmp_path / "masks/0.png", mask_of(0))
    found = [bad_one(tmp_path / f"dent/s{n}.png", 30 + n, (mask,)) for n in range(2)]
    (note,) = check_pictures([*samples, *found])
    assert "1 mask belongs to several pictures each" in note
    assert all(sample.path.name in note for sample in found)


def test_a_picture_that_cannot_be_opened_is_an_error(samples, tmp_path):
    (tmp_path / "good/none.png").write_bytes(b"")
    with pytest.raises(PictureError, match="none.png` is empty"):
        check_pictures([*samples, Sample(tmp_path / "good/none.png", 0, "train", "c")])


def test_all_pictures_that_cannot_be_opened_are_named_at_once(samples, tmp_path):
    broken = [tmp_path / f"good/x{number:02d}.png" for number in range(23)]
    for path in broken:
        path.write_bytes(b"")
    found = [Sample(path, 0, "train", "c") for path in broken]
    with pytest.raises(PictureError) as caught:
        check_pictures([*found[:1], *samples, *found[1:2]])
    first, others = str(caught.value).splitlines()
    assert "x00.png` is empty" in first
    assert others == f"1 other has such a fault: `{broken[1]}`."
    with pytest.raises(PictureError, match="22 others have such a fault: .*x20.png` and 2 more"):
        check_pictures(found)


def test_defects_without_a_defective_pixel_are_no_good_pixels(mean_picture, tmp_path):
    root = write_mvtec_tree(tmp_path / "data", size=32)
    run = tmp_path / "run"
    train("mvtec", "toy", mean_picture, data_root=root, output_dir=run)
    first = root / "toy/ground_truth/square/000_mask.png"
    Image.new("L", (32, 32)).save(first)
    emptied = evaluate(run, report=False)
    first.unlink()
    without = evaluate(run, report=False)
    assert emptied.metrics == without.metrics  # as if its truth were not known, which it is not
    assert any("1 of 4 defective pictures with masks" in note for note in emptied.notes)


def test_heat_maps_are_no_parts_wherever_they_were_moved(mean_picture, samples, tmp_path):
    root = write_mvtec_tree(tmp_path / "data", size=32)
    run = train("mvtec", "toy", mean_picture, data_root=root, output_dir=tmp_path / "run").run
    seen = inspect(run, [samples[-1].path], output=tmp_path / "seen")
    moved = shutil.copy(seen.rows[0].heatmap, tmp_path / "dent/99.png")
    words = r"dent/99\.png` is a heat map or another sheet that `ad` drew, and no picture\. Move it"
    with pytest.raises(PictureError, match=words):
        check_pictures([*samples, Sample(moved, 1, "test", "c", "dent")])
    (row,) = inspect(run, [moved], output=tmp_path / "again").rows
    assert row.verdict == "error"
    assert "is a heat map" in row.error


@pytest.mark.parametrize("name", ["dent/1_m", "areas/m1", "areas/1_x", "areas/1.bmp"])
def test_a_mask_is_told_by_the_name_of_its_picture_in_it(samples, tmp_path, name):
    path = write(tmp_path / f"{name}.png", mask_of(1))
    with pytest.raises(DataError, match="which has the name of another picture"):
        check_pictures([*samples, Sample(path, 1, "test", "c", "areas")])


def test_a_mask_among_pictures_is_to_be_named_and_a_folder_of_them_renamed(samples, tmp_path):
    path = write(tmp_path / "dent/1_m.png", mask_of(1))
    with pytest.raises(DataError, match=r"such as `000_mask\.png` of `000\.png`, or move"):
        check_pictures([*samples, Sample(path, 1, "test", "c", "dent")])
    path = write(tmp_path / "roi/a/1.png", mask_of(1))
    with pytest.raises(DataError, match=rf"Rename the folder `{tmp_path}/roi` to `masks`, or"):
        check_pictures([*samples, Sample(path, 1, "test", "c", "roi")])


def test_a_mask_the_wrong_way_round_is_no_part_either(samples, tmp_path):
    path = write(tmp_path / "areas/1.png", 255 - mask_of(1))
    with pytest.raises(DataError, match="1 of 10 pictures look like masks"):
        check_pictures([*samples, Sample(path, 1, "test", "c", "areas")])


def test_pictures_that_show_nothing_are_told(samples, tmp_path):
    path = write(tmp_path / "good/areas/g1.png", np.zeros((32, 32), np.uint8))
    note, grey = check_pictures([*samples, Sample(path, 0, "train", "c")])
    assert grey.startswith("1 of 10 pictures are saved in grey")
    assert f"1 of 10 pictures are the same all over, such as `{path}`" in note


def test_names_in_two_formats_are_told(samples, tmp_path):
    other = good_one(tmp_path / "good/G3.bmp", 7)
    (note,) = check_pictures([*samples, other])
    assert "1 name is there in two formats, such as `g3.png` and `G3.bmp`" in note


def test_some_masks_the_wrong_way_round_are_told(samples, tmp_path):
    drawn = [mask_of(n) for n in range(4)]
    drawn[2] = 255 - drawn[2]
    masks = [write(tmp_path / f"masks/{n}.png", pixels) for n, pixels in enumerate(drawn)]
    found = [bad_one(tmp_path / f"dent/i{n}.png", 20 + n, (m,)) for n, m in enumerate(masks)]
    (note,) = check_pictures([*samples, *found])
    assert "1 of 4 defective pictures are marked by more than half" in note
    assert f"`{masks[2]}` ({np.mean(drawn[2] > 0):.0%})" in note


def test_a_mask_that_is_a_picture_of_the_data_is_refused(samples, tmp_path):
    spelt = tmp_path / "dent/../dent/1.png"
    with pytest.raises(
        DataError, match="is given as the mask of .*9.png`, and is a picture itself"
    ):
        check_pictures([*samples, bad_one(tmp_path / "dent/9.png", 9, (spelt,))])


def test_a_mask_of_two_pictures_is_found_under_two_spellings_and_counted_once(samples, tmp_path):
    mask = write(tmp_path / "masks/0.png", mask_of(0))
    (tmp_path / "masks/link.png").symlink_to(mask)
    spellings = (mask, tmp_path / "masks/../masks/0.png", tmp_path / "masks/link.png")
    found = [bad_one(tmp_path / f"dent/s{n}.png", 30 + n, (m,)) for n, m in enumerate(spellings)]
    (note,) = check_pictures([*samples, *found])
    assert "1 mask belongs to several pictures each" in note
