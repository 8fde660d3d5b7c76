"""A folder of one's own pictures: what each sub-folder is read as, or why it is refused."""

from collections import Counter
from pathlib import Path

import pytest

from ad.core.data.finding import collect, locate
from ad.core.data.folder import DATASET as FOLDER
from ad.core.data.inventory import take_inventory
from ad.core.data.mvtec import DATASET as MVTEC
from ad.core.errors import DataError
from ad.core.testing.pictures import put_pictures as put


def read(root, category="all", dataset=FOLDER):
    """How many there are of each split and group, and with how many masks."""
    samples = collect(dataset, category, root=root, seed=0)
    return Counter((s.split, s.group, len(s.masks)) for s in samples)


@pytest.fixture
def good(tmp_path):
    """A folder with ten good parts."""
    return put(tmp_path / "parts", *(f"good/{n}.png" for n in range(10)))


LEARNT = {("train", "good", 0): 10}


@pytest.mark.parametrize("name", ["test_good", "good_test", "normal_test", "test/ok", "good/test"])
def test_good_parts_to_test_with_are_good_and_no_kind_of_defect(good, name):
    put(good, f"{name}/20.png", f"{name}/21.png", "dent/0.png", "masks/dent/0.png")
    assert read(good) == {**LEARNT, ("test", "good", 0): 2, ("test", "dent", 1): 1}


@pytest.mark.parametrize("name", ["val_good", "validation/good", "good/val"])
def test_good_parts_to_set_the_threshold_with_are_that(good, name):
    put(good, f"{name}/20.png")
    assert read(good) == {**LEARNT, ("validation", "good", 0): 1}


def test_two_folders_of_good_parts_are_both_good(good):
    put(good, "normal/20.png", "OK/21.png", "dent/0.png")
    assert read(good) == {
        ("train", "good", 0): 9,
        ("test", "good", 0): 3,
        ("test", "dent", 0): 1,
    }


def test_test_beside_good_holds_its_own_folders(good):
    put(good, "test/good/20.png", "test/dent/0.png", "test/ground_truth/dent/0_mask.png")
    assert read(good) == {**LEARNT, ("test", "good", 0): 1, ("test", "dent", 1): 1}


@pytest.mark.parametrize("name", ["mask", "gt", "labels", "annotations", "Ground Truth"])
def test_masks_are_found_under_the_names_that_people_use(good, name):
    put(good, "test_good/0.png", "dent/0.png", f"{name}/dent/0.png", f"{name}/good/0.png")
    assert read(good) == {**LEARNT, ("test", "good", 0): 1, ("test", "dent", 1): 1}


@pytest.mark.parametrize("mask", ["dent/0_mask.png", "dent/masks/0.png", "masks/Dent/0.png"])
def test_masks_are_found_beside_and_among_their_pictures(good, mask):
    put(good, "test_good/0.png", "dent/0.png", mask)
    assert read(good) == {**LEARNT, ("test", "good", 0): 1, ("test", "dent", 1): 1}


@pytest.mark.parametrize("mask", ["good/0_mask.png", "good/masks/0.png", "good/gt/0_gt.png"])
def test_masks_of_good_parts_are_not_learnt_from(good, mask):
    put(good, mask)
    assert read(good) == LEARNT


def test_a_kind_of_defect_keeps_its_name_whatever_folders_are_in_it(good):
    put(good, "test_good/0.png", "dent/day1/0.png", "dent/day2/1.png", "masks/dent/day1/0.png")
    put(good, "masks/dent/1.png")
    assert read(good) == {**LEARNT, ("test", "good", 0): 1, ("test", "dent", 1): 2}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["good_day2/0.png"], r"good_day2` sounds like good parts, but .*its 1 picture would"),
        (["healthy/0.png"], "healthy` sounds like good parts.*`test_good` for good ones to test"),
        (["good/bad/0.png"], r"good/bad` lies among the good parts and is called defective: its 1"),
        (["good/dent/0.png", "dent/1.png"], r"good/dent` lies among the good parts"),
        (["masks_dent/0.png", "dent/0.png"], r"seems to hold masks.*go into `.*masks/dent`"),
        (["test/0.png"], r"whether the 1 picture in `.*test` is good\. Put it into `test_good"),
        (["train/0.png"], "train` lies beside a folder of good parts.*into one folder"),
        (["val/dent/0.png"], "val` holds defective parts, `dent`.*Move them beside `val`"),
        (
            ["set/good/0.png"],
            "set` would hold defective parts, and has `good` in it, as a data set",
        ),
        (["dent/0.png", "gt/0.png", "masks/0.png"], "several folders of masks, `gt`, `masks`"),
        (["dent/0.png", "rust/0.png", "masks/0.png"], "fits two pictures, .*dent.* and .*rust"),
        (["dent/0.png", "dent/0_mask.png", "masks/dent/0.png"], "There are 2 masks of the picture"),
        (["dent/0.png", "masks/dents/0.png"], "None of the 1 masks in .*masks` has the name"),
    ],
)
def test_what_can_be_taken_two_ways_is_refused_with_the_remedy(good, names, words):
    put(good, *names)
    with pytest.raises(DataError, match=words):
        read(good)


def test_good_parts_among_the_abnormal_ones_of_three_folders_are_refused(good):
    put(good, "test/good/20.png", "test/dent/0.png")
    root = type(good)(f"normal={good}/good,abnormal={good}/test")
    with pytest.raises(DataError, match="test` would hold defective parts, and has `good` in it"):
        read(root)


@pytest.mark.parametrize("name", ["heatmaps/1.png", "good/1_thumb.jpg", "good/heatmap_1.png"])
def test_thumbnails_and_heat_maps_are_no_parts(good, name):
    put(good, name)
    assert read(good) == LEARNT


def test_loose_pictures_beside_folders_are_refused(tmp_path):
    put(tmp_path, "0.png", "1.png", "dent/2.png")
    with pytest.raises(DataError, match=r"loose pictures, .*folder `dent` with 1 more.*/good`"):
        read(tmp_path)


def test_loose_pictures_with_their_masks_are_learnt_from_without_them(tmp_path):
    put(tmp_path, "0.png", "1.png", "0_mask.png", "masks/1.png", ".thumbs/1.png")
    assert read(tmp_path) == {("train", "good", 0): 2}


def test_a_run_or_a_prediction_among_the_parts_is_no_kind_of_defect(good):
    put(good, "dent/0.png", "runs/a/pictures/0.png", "seen/heatmaps/0.png")
    (good / "runs/a/run.json").touch()
    (good / "runs/a/log.jsonl").touch()
    (good / "seen/predictions.csv").touch()
    assert read(good)[("test", "dent", 0)] == sum(read(good).values()) - 10 == 1


@pytest.mark.parametrize("how", ["link", "folder", "hard link"])
def test_one_file_in_two_places_is_refused_with_both_names(good, how):
    put(good, "dent/50.png")
    if how == "folder":
        (good / "rust").symlink_to(good / "dent")
    elif how == "link":
        (good / "dent/51.png").symlink_to(good / "good/3.png")
    else:
        (good / "dent/51.png").hardlink_to(good / "good/3.png")
    with pytest.raises(DataError, match=r"are the same file: a picture must be there once.*Remove"):
        read(good)


def test_a_category_may_have_commas_in_its_name(tmp_path):
    put(tmp_path, "M4, black/good/0.png", "M5/good/0.png", "M6/good/0.png")
    for asked, found in (
        ("M4, black", ["M4, black"]),
        ("M5,M4, black, M6", ["M5", "M4, black", "M6"]),
    ):
        samples = collect(FOLDER, asked, root=tmp_path, seed=0)
        assert list(dict.fromkeys(s.category for s in samples)) == found
    with pytest.raises(DataError, match="has no category `M4`.* It has `M4, black`, `M5`"):
        collect(FOLDER, "M4,M5", root=tmp_path, seed=0)
    put(tmp_path, "M4/good/0.png", "black/good/0.png")
    with pytest.raises(DataError, match="can be read as `M4`, `black` or `M4, black`.*one by one"):
        collect(FOLDER, "M4, black", root=tmp_path, seed=0)


@pytest.fixture
def tree(tmp_path):
    """A category as MVTec's, with pictures one folder deeper."""
    put(tmp_path, "nut/train/good/0.png", "nut/train/good/day2/1.png")
    put(tmp_path, "nut/test/dent/day1/2.png", "nut/test/dent/3.png")
    return tmp_path


def test_mvtec_reads_pictures_in_folders_below(tree):
    put(tree, "nut/ground_truth/dent/day1/2_mask.png", "nut/ground_truth/dent/3_mask.png")
    assert read(tree, "nut", MVTEC) == {("train", "good", 0): 2, ("test", "dent", 1): 2}


@pytest.mark.parametrize("name", ["Good", "ok", "normal", "good_parts"])
def test_mvtec_takes_other_names_of_good_test_parts(tree, name):
    put(tree, f"nut/test/{name}/9.png")
    assert read(tree, "nut", MVTEC)["test", "good", 0] == 1


@pytest.mark.parametrize("name", ["gt", "masks", "test/ground_truth", "test/masks"])
def test_mvtec_takes_other_names_of_the_folder_of_masks(tree, name):
    put(tree, f"nut/{name}/dent/3.png")
    assert read(tree, "nut", MVTEC) == {
        ("train", "good", 0): 2,
        ("test", "dent", 1): 1,
        ("test", "dent", 0): 1,
    }


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["test/healthy/9.png"], "sounds like good parts, but it is not called `good`.*Rename it"),
        (["gt/dent/3.png", "masks/dent/3.png"], "has no folder `ground_truth`, and several"),
        (["ground_truth/dent/3.png", "test/dent/3_mask.png"], "There are 2 masks of the picture"),
    ],
)
def test_mvtec_refuses_what_can_be_taken_two_ways(tree, names, words):
    put(tree / "nut", *names)
    with pytest.raises(DataError, match=words):
        read(tree, "nut", MVTEC)


def test_mvtec_reads_masks_beside_and_among_the_pictures(tree):
    put(tree, "nut/test/dent/3_mask.png", "nut/test/dent/masks/day1/2.png")
    put(tree, "nut/train/good/0_mask.png")
    assert read(tree, "nut", MVTEC) == {("train", "good", 0): 2, ("test", "dent", 1): 2}


def test_masks_beside_a_folder_of_pictures_are_no_category(tmp_path):
    put(tmp_path, "images/good/0.png", "images/dent/0.png", "masks/good/0.png", "masks/dent/0.png")
    assert FOLDER.categories(tmp_path) == ["images"]


def test_folders_that_are_given_one_by_one_may_have_commas_in_their_paths(tmp_path):
    put(tmp_path, "M4, x/good/0.png", "M4, x/dent/0.png")
    twice = f"normal={tmp_path}/a,normal={tmp_path}/b"
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"`normal=` is given twice: `.*/a` and `.*/b`\. Leave out"):
        read(Path(twice))
    root = f"normal={tmp_path}/M4, x/good,abnormal={tmp_path}/M4, x/dent"
    name, found = locate(FOLDER, "all", root)
    assert read(found, name) == {("train", "good", 0): 1, ("test", "dent", 0): 1}
    assert take_inventory(FOLDER, found, collect(FOLDER, name, root=found, seed=0)).left_out == ()


def test_a_whole_tree_given_as_good_parts_is_refused(tmp_path):
    put(tmp_path, "n/good/0.png", "n/dent/0.png", "a/0.png")
    with pytest.raises(DataError, match=r"n/dent` lies among the good parts.*its 1 picture would"):
        read(Path(f"normal={tmp_path}/n,abnormal={tmp_path}/a"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train/good/bad/0.png", "train/good/bad` lies among the good parts"),
        ("test/good/NG/0.png", "test/good/NG` lies among the good parts"),
        ("test/dent/good/0.png", "test/dent` would hold defective parts, and has `good` in it"),
    ],
)
def test_mvtec_refuses_good_and_defective_parts_in_one_folder(tmp_path, name, words):
    put(tmp_path, "train/good/0.png", "test/good/1.png", "test/dent/2.png", name)
    with pytest.raises(DataError, match=words):
        read(tmp_path, dataset=MVTEC)


@pytest.mark.parametrize("category", ["", " , "])
def test_an_empty_category_is_no_data_set_without_pictures(tmp_path, category):
    put(tmp_path, "nut/train/good/0.png")
    with pytest.raises(DataError, match="An empty category.*is a variable not set.*`nut`"):
        read(tmp_path, category, MVTEC)


def test_where_nothing_is_read_the_formats_that_are_there_are_named(tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "good/0.HEIC").touch()
    with pytest.raises(
        DataError, match=r"to train on\. There are files .* not read: 1 of `\.HEIC`"
    ):
        read(tmp_path)


@pytest.mark.parametrize("home", ["", "Türblatt/"])
def test_good_parts_in_another_language_alone_are_to_be_renamed(tmp_path, home):
    put(tmp_path, f"{home}gut/0.png", f"{home}Kratzer/0.png")
    with pytest.raises(DataError, match=r"gut` sounds like good parts.*Rename it: `good`"):
        read(tmp_path)


def test_a_folder_that_is_not_there_is_told_by_what_was_typed(tmp_path, good):
    with pytest.raises(DataError, match=r"^There is no folder `.*/prats`\. Did you mean `p"):
        locate(FOLDER, str(tmp_path / "prats"), None)
    with pytest.raises(DataError, match=r"0\.png` is a file\. Give the folder of your pictures\.$"):
        locate(FOLDER, str(good / "good/0.png"), None)
    typed = f"normal={good}/good,masks={good}"
    with pytest.raises(DataError, match="hint: type `all --data-root normal=") as caught:
        locate(FOLDER, typed, None)
    assert typed in str(caught.value)
    root = locate(FOLDER, "all", typed)[1]
    assert FOLDER.categories(root) == ["all"]
