import re
from collections import Counter

import pytest

from ad.core.data.finding import collect, locate
from ad.core.data.folder import DATASET as FOLDER
from ad.core.data.mtd import DATASET as MTD
from ad.core.data.mvtec import DATASET as MVTEC
from ad.core.data.samples import describe, fingerprint, split_seeded
from ad.core.errors import DataError
from ad.core.registry import dataset_names, get_dataset
from ad.core.testing.pictures import put_pictures as put
from ad.core.testing.pictures import write_mvtec_tree


def count(samples):
    return Counter((sample.split, sample.group, len(sample.masks)) for sample in samples)


def test_mvtec_reads_categories_splits_and_masks(tmp_path):
    write_mvtec_tree(tmp_path, "a", size=16)
    write_mvtec_tree(tmp_path, "b", size=16, train=3)
    samples = collect(MVTEC, "all", root=tmp_path, seed=0)
    assert [s.category for s in samples] == ["a"] * 18 + ["b"] * 11
    assert count(samples[:18]) == {
        ("train", "good", 0): 10,
        ("test", "good", 0): 4,
        ("test", "square", 1): 4,
    }
    assert all(s.masks[0].stem == f"{s.path.stem}_mask" for s in samples if s.masks)
    assert all(s.label == (s.group != "good") for s in samples)


def test_mvtec_takes_a_root_that_is_itself_a_category(tmp_path):
    write_mvtec_tree(tmp_path, "nut", size=16)
    assert {s.category for s in collect(MVTEC, "nut", root=tmp_path / "nut", seed=0)} == {"nut"}


def test_masks_match_by_stem_whatever_their_ending_and_suffix(tmp_path):
    put(tmp_path, "c/train/good/0.png", "c/test/good/0.png")
    put(tmp_path, *(f"c/test/cut/{n}.jpg" for n in "1234"))
    put(tmp_path, "c/ground_truth/cut/1.png", "c/ground_truth/cut/2_mask.bmp")
    put(tmp_path, "c/ground_truth/cut/3_GT.tif")
    found = {
        s.path.stem: [m.name for m in s.masks]
        for s in collect(MVTEC, "c", root=tmp_path, seed=0)
        if s.label
    }
    assert found == {"1": ["1.png"], "2": ["2_mask.bmp"], "3": ["3_GT.tif"], "4": []}


def test_a_comma_list_gives_those_categories_in_that_order(tmp_path):
    for name in "abc":
        write_mvtec_tree(tmp_path, name, size=16)
    samples = collect(MVTEC, "c, a", root=tmp_path, seed=0)
    assert list(dict.fromkeys(s.category for s in samples)) == ["c", "a"]


def test_an_unknown_category_is_told_the_nearest(tmp_path):
    write_mvtec_tree(tmp_path, "bottle", size=16)
    with pytest.raises(DataError, match="no category `botle`. Did you mean `bottle`"):
        collect(MVTEC, "botle", root=tmp_path, seed=0)


def test_a_wrong_tree_says_what_was_expected_and_what_was_found(tmp_path):
    put(tmp_path, "pictures/0.png")
    words = r"holds `pictures/`\. It is not laid out as `mvtec`\.\nExpected layout(.|\n)*train/good"
    with pytest.raises(DataError, match=words):
        collect(MVTEC, "all", root=tmp_path, seed=0)


def test_a_missing_root_says_so_and_where_the_data_can_be_had(tmp_path):
    with pytest.raises(DataError, match=r"nowhere` does not exist(.|\n)*Source: https://www.mvtec"):
        collect(MVTEC, "all", root=tmp_path / "nowhere", seed=0)


def test_a_file_is_no_root(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(DataError, match="is a file, not a folder"):
        collect(MVTEC, "all", root=tmp_path / "x", seed=0)


def test_a_root_must_be_given_where_there_is_no_default():
    with pytest.raises(DataError, match=r"`mvtec` needs its folder\.(.|\n)*Give `--data-root DIR`"):
        collect(MVTEC, "all", root=None, seed=0)


def test_no_good_pictures_is_an_error(tmp_path):
    (tmp_path / "c/train/good").mkdir(parents=True)
    with pytest.raises(DataError, match="no good pictures to train on"):
        collect(MVTEC, "c", root=tmp_path, seed=0)


@pytest.fixture
def tiles(tmp_path):
    put(tmp_path, *(f"MT_Free/Imgs/{n:02d}.{end}" for n in range(20) for end in ("jpg", "png")))
    put(tmp_path, "MT_Crack/Imgs/0.jpg", "MT_Crack/Imgs/0.png", "MT_Fray/Imgs/1.jpg")
    return tmp_path


def test_mtd_splits_the_good_tiles_80_to_20_by_the_seed(tiles):
    samples = collect(MTD, "all", root=tiles, seed=0)
    assert count(samples) == {
        ("train", "good", 0): 16,
        ("test", "good", 0): 4,
        ("test", "crack", 1): 1,
        ("test", "fray", 0): 1,
    }
    assert samples == collect(MTD, "all", root=tiles, seed=0)
    assert samples != collect(MTD, "all", root=tiles, seed=1)


def test_mtd_has_a_single_category(tiles):
    with pytest.raises(DataError, match="has no category `crack`. It has `all`"):
        collect(MTD, "crack", root=tiles, seed=0)


def test_a_folder_of_good_pictures_alone_is_all_for_training(tmp_path):
    put(tmp_path, *(f"{n}.png" for n in range(5)))
    assert count(collect(FOLDER, "all", root=tmp_path, seed=0)) == {("train", "good", 0): 5}


@pytest.mark.parametrize("good", ["good", "Normal", "OK"])
def test_a_folder_with_kinds_and_masks_is_split(tmp_path, good):
    put(tmp_path, *(f"{good}/{n}.png" for n in range(10)))
    put(tmp_path, "dent/0.png", "dent/1.png", "rust/0.png", "masks/dent/0.png")
    assert count(collect(FOLDER, "all", root=tmp_path, seed=0)) == {
        ("train", "good", 0): 8,
        ("test", "good", 0): 2,
        ("test", "dent", 1): 1,
        ("test", "dent", 0): 1,
        ("test", "rust", 0): 1,
    }


def test_a_folder_of_such_folders_has_categories(tmp_path):
    put(tmp_path, "a/good/0.png", "b/good/0.png", "b/bad/0.png")
    assert FOLDER.categories(tmp_path) == ["a", "b"]
    assert {s.category for s in collect(FOLDER, "b", root=tmp_path, seed=0)} == {"b"}


def test_three_folders_anywhere_make_a_data_set(tmp_path):
    put(tmp_path, *(f"ok/{n}.png" for n in range(10)), "ng/dent/7.png", "ng/8.png")
    put(tmp_path, "gt/dent/7_mask.png", "gt/8.png")
    root = f"normal={tmp_path}/ok,abnormal={tmp_path}/ng,masks={tmp_path}/gt"
    assert count(collect(FOLDER, "all", root=locate(FOLDER, "all", root)[1], seed=0)) == {
        ("train", "good", 0): 8,
        ("test", "good", 0): 2,
        ("test", "dent", 1): 1,
        ("test", "ng", 1): 1,
    }


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("normals=.", "got `normals=`. Did you mean `normal`"),
        ("normal=./nowhere", "nowhere` of `normal=` does not exist"),
        ("masks=.", "needs `normal=DIR`; got `masks`"),
    ],
)
def test_parts_of_a_folder_are_checked(root, words):
    with pytest.raises(DataError, match=words):
        collect(FOLDER, "all", root=locate(FOLDER, "all", root)[1], seed=0)


def test_a_folder_may_be_named_as_the_category(tmp_path, monkeypatch):
    put(tmp_path, "parts/good/0.png")
    monkeypatch.chdir(tmp_path)
    assert locate(FOLDER, "./parts", None) == ("all", tmp_path / "parts")
    with pytest.raises(DataError, match="`mvtec` needs its folder"):
        locate(MVTEC, "./parts", None)


def test_hidden_files_and_other_files_are_left_out(tmp_path):
    put(tmp_path, "good/0.png", "good/.trash/1.png", "good/._2.png")
    (tmp_path / "good" / "notes.txt").write_text("x")
    assert len(collect(FOLDER, "all", root=tmp_path, seed=0)) == 1


def test_a_seeded_split_keeps_order_and_every_item():
    first, second = split_seeded(list(range(100)), 80, 5)
    assert (len(first), len(second)) == (80, 20)
    assert sorted(first + second) == list(range(100))
    assert first == sorted(first)
    assert split_seeded(list(range(100)), 80, 5) == (first, second)
    assert split_seeded(list(range(100)), 80, 6) != (first, second)


def test_the_fingerprint_sees_a_changed_file(tmp_path):
    put(tmp_path, "good/0.png", "good/1.png")
    before = fingerprint(collect(FOLDER, "all", root=tmp_path, seed=0))
    assert before == fingerprint(collect(FOLDER, "all", root=tmp_path, seed=0))
    with (tmp_path / "good/0.png").open("ab") as file:
        file.write(b"x")
    assert before != fingerprint(collect(FOLDER, "all", root=tmp_path, seed=0))


@pytest.mark.parametrize("name", dataset_names())
def test_every_layout_describes_itself(name):
    dataset = get_dataset(name)
    text = describe(dataset)
    assert all(word in text for word in ("<data root>", "Source: ", "Licence: "))
    assert max(map(len, text.splitlines()[: dataset.tree.count("\n") + 2])) <= 100
    if dataset.archive is not None:
        assert f"Archive: {dataset.archive.url}" in text
        assert text.endswith(f"Checksum: {dataset.archive.checksum}")
        assert (" GB)" in text) == (dataset.archive.size is not None)
        assert re.fullmatch(r"https://\S+\.(zip|tar|tar\.\w\w)", dataset.archive.url)
        assert re.fullmatch("sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", dataset.archive.checksum)


@pytest.mark.parametrize("name", sorted({*dataset_names()} - {"synthetic"}))
def test_every_layout_refuses_another_tree_with_what_is_there(tmp_path, name):
    put(tmp_path, "elsewhere/deeper/0.png")
    with pytest.raises(DataError, match=f"`elsewhere/`(.|\n)*Expected layout of `{name}`"):
        collect(get_dataset(name), "all", root=tmp_path, seed=0)


def test_a_folder_that_does_not_exist_is_named():
    with pytest.raises(DataError, match=r"^There is no folder `\./no such`\. Give the folder"):
        locate(FOLDER, "./no such", None)


def test_roots_are_absolute(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate(MVTEC, "x", "later")[1] == tmp_path / "later"
    parts = locate(FOLDER, "all", "normal=a,masks=./b")[1]
    assert str(parts) == f"normal={tmp_path / 'a'},masks={tmp_path / 'b'}"


def test_mvtecs_tree_is_not_read_as_a_folder(tmp_path):
    put(tmp_path, "bolt/train/good/0.png", "bolt/test/good/1.png")
    with pytest.raises(DataError, match="is laid out as `mvtec`.*\nhint: ad train mvtec bolt"):
        collect(FOLDER, "all", root=tmp_path / "bolt", seed=0)


@pytest.mark.parametrize(
    ("good", "words"),
    [
        ("train/ok", "is laid out as `btad`, with `train/ok` .*\nhint: ad train btad parts MODEL"),
        ("train/normal", "brings its own split, with `train/normal`.* `btad` .*`csv`"),
        ("Train/GOOD", "with `Train/GOOD`.*would be learnt.*\nhint: rename .* to `train/good`"),
        ("train/Ok", "brings its own split, with `train/Ok`.*\nhint: .*ad train mvtec parts MODEL"),
    ],
)
def test_a_tree_with_a_split_is_not_read_as_a_folder(tmp_path, good, words):
    put(tmp_path / "parts", f"{good}/0.png", "test/ok/1.png", "test/nok/2.png")
    put(tmp_path / "parts", "ground_truth/nok/2.png")
    with pytest.raises(DataError, match=words):
        collect(FOLDER, "all", root=tmp_path / "parts", seed=0)


def test_commas_without_a_name_are_left_out(tmp_path):
    put(tmp_path, "bolt/train/good/0.png")
    assert len(collect(MVTEC, "bolt,bolt,", root=tmp_path, seed=0)) == 1


@pytest.mark.parametrize("layout", ["mvtec", "folder"])
def test_masks_that_belong_to_no_picture_are_refused(tmp_path, layout):
    if layout == "mvtec":
        put(tmp_path, "c/train/good/0.png", "c/test/dent/1.png", "c/ground_truth/dent/m1.png")
        dataset, root = MVTEC, tmp_path
    else:
        put(tmp_path, *(f"good/{n}.png" for n in range(5)), "dent/1.png", "masks/dent/m1.png")
        dataset, root = FOLDER, tmp_path
    with pytest.raises(DataError, match=r"None of the 1 masks in .*`m1\.png`.*such as `1\.png`"):
        collect(dataset, "all", root=root, seed=0)


def test_a_folder_of_masks_beside_the_defective_ones_is_refused(tmp_path):
    put(tmp_path, *(f"good/{n}.png" for n in range(5)), "dent/1.png", "dent_masks/1.png")
    with pytest.raises(DataError, match="`.*dent_masks` seems to hold masks"):
        collect(FOLDER, "all", root=tmp_path, seed=0)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder without data, and no `AD_DATA`."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("AD_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", ["mvtec", "mvtec_anomaly_detection", "MVTec"])
def test_data_are_found_below_ad_data_by_their_usual_names(elsewhere, monkeypatch, name):
    write_mvtec_tree(elsewhere / "all" / name, "nut", size=16)
    monkeypatch.setenv("AD_DATA", str(elsewhere / "all"))
    assert locate(MVTEC, "nut", None) == ("nut", elsewhere / "all" / name)


@pytest.mark.parametrize("home", ["data", "datasets"])
def test_without_ad_data_they_are_found_beside_the_work(elsewhere, home):
    write_mvtec_tree(elsewhere / "work" / home / "mvtec", "nut", size=16)
    assert locate(MVTEC, "nut", None)[1] == elsewhere / "work" / home / "mvtec"


def test_data_that_are_not_found_are_told_where_they_were_looked_for(elsewhere, monkeypatch):
    words = r"Looked at `data/mvtec`, `data/mvtec_anomaly_detection`,.*`datasets/mvtec`.*AD_DATA"
    with pytest.raises(DataError, match=words):
        locate(MVTEC, "nut", None)
    write_mvtec_tree(elsewhere / "work/data/mvtec", "nut", size=16)
    put(elsewhere / "all/mvtec", "pictures/0.png")
    monkeypatch.setenv("AD_DATA", str(elsewhere / "all"))
    with pytest.raises(DataError, match=r"`.*all/mvtec` is there, and laid out otherwise"):
        locate(MVTEC, "nut", None)  # nothing else is looked at where it is set


def test_data_that_are_found_twice_are_refused_unless_they_are_the_same(elsewhere):
    data = elsewhere / "work/data"
    write_mvtec_tree(data / "mvtec", "nut", size=16)
    (data / "MVTec").symlink_to(data / "mvtec")
    assert locate(MVTEC, "nut", None)[1] == data / "mvtec"
    write_mvtec_tree(elsewhere / "work/datasets/mvtec", "nut", size=16)
    with pytest.raises(DataError, match=r"is in several places: .*data/mvtec`, .*Say which with"):
        locate(MVTEC, "nut", None)
