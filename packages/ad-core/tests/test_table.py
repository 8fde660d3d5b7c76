import re

import pytest
from PIL import Image

from ad.core import evaluate, recalibrate, train
from ad.core.bench.jobs import plan
from ad.core.data.finding import collect
from ad.core.data.samples import fingerprint
from ad.core.data.table import DATASET as CSV
from ad.core.errors import DataError, PictureError
from ad.core.testing.pictures import make_picture

ROWS = (
    "image,label,mask,split,category,group",
    "a/0.png,good,,train,nut,",
    "a/1.png,0,,test,nut,good",
    "a/2.png,defective,m/2.png;m/2b.png,test,nut,dent",
    "/abs/3.png,1,,test,nut,",
    "b/0.png,ok,,train,bolt,",
    "b/1.png,normal,,val,bolt,",
)


@pytest.fixture
def write(tmp_path):
    def write(*lines, name="parts.csv", **how):
        (tmp_path / name).write_text("\n".join(lines) + "\n", **how)
        return tmp_path / name

    return write


def read(root, category="all", seed=0):
    return collect(CSV, category, root=root, seed=seed)


def test_a_table_says_it_all_and_paths_are_relative_to_it(write, tmp_path):
    samples = read(write(*ROWS))
    assert [(s.path.name, s.label, s.split, s.category, s.group) for s in samples] == [
        ("0.png", 0, "train", "bolt", "good"),
        ("1.png", 0, "validation", "bolt", "good"),
        ("0.png", 0, "train", "nut", "good"),
        ("1.png", 0, "test", "nut", "good"),
        ("2.png", 1, "test", "nut", "dent"),
        ("3.png", 1, "test", "nut", "defective"),
    ]
    assert samples[4].path == tmp_path / "a/2.png"
    assert samples[4].masks == (tmp_path / "m/2.png", tmp_path / "m/2b.png")
    assert str(samples[5].path) == "/abs/3.png"


@pytest.mark.parametrize("mark", [";", "\t"])
def test_semicolons_and_tabs_separate_columns_too(write, mark):
    lines = [row.replace("m/2.png;m/2b.png", '"m/2.png;m/2b.png"') for row in ROWS]
    table = write(*(line.replace(",", mark) for line in lines))
    assert read(table) == read(write(*ROWS, name="commas.csv"))


def test_a_byte_order_mark_blank_lines_spaces_and_capitals_do_no_harm(write):
    table = write("Image , LABEL,note", "", " 0.png , Good ,x", ",,", encoding="utf-8-sig")
    assert [(s.path.name, s.label) for s in read(table)] == [("0.png", 0)]


def test_a_folder_with_one_table_is_a_root(write, tmp_path):
    table = write(*ROWS)
    assert read(tmp_path) == read(table)
    write(*ROWS, name="copy.csv")
    with pytest.raises(DataError, match=r"several tables: `copy\.csv`, `parts\.csv`. Name the one"):
        read(tmp_path)


def test_without_a_split_good_pictures_are_split_by_the_seed(write):
    good = [f"{n}.png,good" for n in range(10)]
    table = write("image,label", *good, "10.png,bad")
    splits = [s.split for s in read(table)]
    assert (splits.count("train"), splits.count("test")) == (8, 3)
    assert read(table) != read(table, seed=1)
    assert {s.split for s in read(write("image,label", *good, name="good.csv"))} == {"train"}


def test_defective_pictures_to_train_on_are_left_out_and_it_is_said(write):
    table = write("image,label,split", "0.png,0,train", "1.png,1,train", "2.png,1,test")
    with pytest.warns(UserWarning, match="has 1 defective pictures of `all` to train"):
        samples = read(table)
    assert [s.path.name for s in samples] == ["0.png", "2.png"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["image,lable", "0.png,0"], "has no column `label`: .* names `image`, `lable`. Name the"),
        (["path,label", "0.png,0"], "has no column `image`: its first line names `label`, `path`"),
        (["image,label,masks", "0.png,0,"], "column `masks` of .* not be read. Rename it `mask`"),
        (["image,label", "0.png,fine"], r"Line 2 of .* has the label 'fine'; allowed: `0`, `1`"),
        (["image,label,split", "0.png,0,tset"], "has the split 'tset'; .*Did you mean `test`"),
        (["image,label", "0.png,0,1"], "Line 2 of .* has 3 cells, and the header 2"),
        (["image,label", ",0"], "Line 2 of .* names no picture"),
        (["image,label", "0.png,0", "0.png,1"], r"Lines 2 and 3 of .* the same picture, `0\.png`"),
        (
            ["image,label,split", "0.png,0,train", "1.png,0,"],
            "Line 3 of .* has no split, and others have: give each row",
        ),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(write, lines, words):
    with pytest.raises(DataError, match=words):
        read(write(*lines))


def test_a_mask_of_a_good_picture_must_mark_nothing(write, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    mask = Image.new("L", (8, 8))
    mask.putpixel((3, 3), 255)
    mask.save(tmp_path / "spot.png")
    rows = ("image,label,mask", "0.png,good,black.png", "1.png,bad,spot.png")
    assert [s.masks for s in read(write(*rows))] == [(), (tmp_path / "spot.png",)]
    words = r"Line 4 of .* calls a picture good, and its mask `.*spot\.png` marks a defect: .* Mend"
    with pytest.raises(DataError, match=words):
        read(write(*rows, "2.png,good,black.png;spot.png"))
    with pytest.raises(PictureError, match=r"mask `.*gone\.png` does not exist"):
        read(write("image,label,mask", "0.png,good,gone.png"))


def test_a_table_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes("image,label\nprüf.png,0\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"t\.csv` cannot be read as UTF-8 text"):
        read(tmp_path)


def test_another_file_is_no_table(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="is a file, not a folder(.|\n)*Expected layout of `csv`"):
        read(tmp_path / "notes.txt")


@pytest.fixture
def listed(write, tmp_path):
    """A table of pictures that are there."""
    for number in range(12):
        Image.fromarray(make_picture(number, size=32)[0]).save(tmp_path / f"{number}.png")
    return write(
        "image,label,split",
        *(f"{number}.png,good,{'test' if number > 9 else 'train'}" for number in range(12)),
    )


def test_a_listed_picture_that_is_gone_is_named(mean_picture, listed, tmp_path, run_ad):
    options = {"data_root": listed, "output_dir": tmp_path / "run"}
    run = train("csv", "all", mean_picture, **options).run
    gone = tmp_path / "3.png"
    (tmp_path / "new").mkdir()
    for number in range(20, 40):
        Image.fromarray(make_picture(number, size=32)[0]).save(tmp_path / f"new/{number}.png")
    gone.unlink()
    words = f"The picture `{gone}` does not exist. Put it there, or take it out of the data."
    with pytest.raises(PictureError, match=re.escape(words)):
        evaluate(run)
    with pytest.raises(PictureError, match=re.escape(words)):
        plan(
            ["csv"], ["all"], [mean_picture],
            seeds=[0], output=tmp_path / "bench", data_roots={"csv": str(listed)},
        )  # fmt: skip
    status, _, err = run_ad("evaluate", run)
    assert (status, words in err, "Traceback" in err) == (1, True, False)
    result = recalibrate(run, normals=tmp_path / "new")
    assert not result.checked
    assert "so it could not be checked that these pictures are new to it." in result.notes[0]


def test_a_listed_picture_that_cannot_be_looked_at_is_named(write, tmp_path):
    name = "n" * 300 + ".png"  # longer than file systems allow
    samples = read(write("image,label", f"{name},good"))
    with pytest.raises(PictureError, match=r"n.png` cannot be read \(File name too long\)"):
        fingerprint(samples)


def test_paths_of_windows_alone_are_refused_with_the_remedy(write):
    with pytest.raises(DataError, match=r"Line 2 .*names `a\\0\.png`.*Write `/` in place of"):
        read(write("image,label", r"a\0.png,good"))


@pytest.mark.parametrize("name", ["subset", "Fold", "usage"])
def test_a_split_in_a_column_of_another_name_is_refused(write, name):
    table = write(f"image,label,{name}", "0.png,good,train", "1.png,good,Test")
    with pytest.raises(DataError, match=r"would not be read, and holds .*Rename it `split`"):
        read(table)
    table = write(f"image,label,split,{name}", "0.png,good,train,train", "1.png,good,test,test")
    assert len(read(table)) == 2
