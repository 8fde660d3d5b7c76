"""What data are read as, what is left out, and that both are told."""

import json

import pytest
from PIL import Image
from report_pages import Page

from ad.core import evaluate, train, write_report
from ad.core.data.finding import collect
from ad.core.data.folder import DATASET as FOLDER
from ad.core.data.inventory import Inventory, take_inventory
from ad.core.data.mtd import DATASET as MTD
from ad.core.data.mvtec import DATASET as MVTEC
from ad.core.data.table import DATASET as CSV
from ad.core.errors import ModelFileError
from ad.core.testing.pictures import make_picture
from ad.core.testing.pictures import put_pictures as put


def inventory(dataset, root, category="all"):
    return take_inventory(dataset, root, collect(dataset, category, root=root, seed=0))


@pytest.fixture
def parts(tmp_path):
    """Ten good parts, two dents of which one has a mask, and eight files that are not read."""
    root = put(tmp_path / "parts", *(f"good/{n}.png" for n in range(10)))
    put(root, "dent/0.png", "dent/1.png", "masks/dent/0.png")
    put(root, "masks/rust/7.png", "masks/rust/8.png", "loose.png", "good/masks/1.png")
    put(root, ".thumbnails/0.png", "good/1_thumb.png")
    (root / "good/20.heic").touch()
    (root / "notes.txt").touch()
    return root


def test_parts_are_counted_by_what_they_are_read_as(parts):
    assert inventory(FOLDER, parts).read_as() == [
        "parts: good to learn from 8, good to test with 2, dent 2 (masks 1)"
    ]


def test_what_is_left_out_is_counted_with_its_reason_and_an_example(parts):
    found = inventory(FOLDER, parts)
    assert {(one.folder, one.files, one.example): one.why for one in found.left_out} == {
        ("masks/rust", 2, "masks/rust/7.png"): "masks of no picture that is read",
        ("good/masks", 1, "good/masks/1.png"): "masks of good pictures",
        (".", 1, "loose.png"): "not read by the layout `folder`: see `ad datasets folder`",
        (".", 1, "notes.txt"): "`.txt` is no format that is read",
        ("good", 1, "good/20.heic"): "`.heic` is no format that is read",
        ("good", 1, "good/1_thumb.png"): "thumbnails and heat maps of pictures",
        (".thumbnails", 1, ".thumbnails/0.png"): "hidden, or made by a system, viewer or detector",
    }
    assert found.left_out[0].files == 2
    assert found.not_read().startswith("8: 2 in `masks/rust` (masks of no picture")


def test_a_note_names_what_may_have_been_meant_to_be_read(parts):
    (note,) = inventory(FOLDER, parts).notes()
    assert note.startswith("4 files were left out of the data: 2 in `masks/rust`")
    assert all(name in note for name in ("loose.png", "good/20.heic"))
    assert not any(name in note for name in ("notes.txt", "thumbnails", "good/masks"))


def test_a_record_gives_the_inventory_back_and_a_malformed_one_is_refused(parts):
    found = inventory(FOLDER, parts)
    assert Inventory.from_json(found.to_json()) == found
    for wrong in ({"read": [{}], "left_out": []}, {"read": 1, "left_out": []}, {}):
        with pytest.raises(ModelFileError, match="malformed entry `read`"):
            Inventory.from_json(wrong)


def test_masks_of_good_tiles_are_as_published_and_no_note_is_needed(tmp_path):
    put(tmp_path, *(f"MT_Free/Imgs/{n}.{end}" for n in range(5) for end in ("jpg", "png")))
    found = inventory(MTD, tmp_path)
    assert [(one.files, one.why) for one in found.left_out] == [(5, "masks of good pictures")]
    assert found.notes() == []


def test_other_categories_are_not_left_out(tmp_path):
    put(tmp_path, "a/train/good/0.png", "b/train/good/0.png", "b/train/bad/1.png")
    assert inventory(MVTEC, tmp_path, "a").left_out == ()
    assert [one.example for one in inventory(MVTEC, tmp_path, "b").left_out] == [
        "b/train/bad/1.png"
    ]


def test_a_table_leaves_nothing_out_and_three_folders_are_looked_through(tmp_path):
    put(tmp_path, "ok/0.png", "ok/1.png", "ng/2.png", "gt/2.png", "gt/9.png")
    (tmp_path / "t.csv").write_text("image,label\nok/0.png,good\n")
    assert inventory(CSV, tmp_path / "t.csv").left_out == ()
    root = f"normal={tmp_path}/ok,abnormal={tmp_path}/ng,masks={tmp_path}/gt"
    found = inventory(FOLDER, type(tmp_path)(root))
    assert [(one.example, one.files) for one in found.left_out] == [("9.png", 1)]


@pytest.fixture
def few(tmp_path):
    """Pictures that can be learnt from."""
    for folder, numbers in (("good", range(8)), ("dent", (1000, 1001))):
        (tmp_path / "few" / folder).mkdir(parents=True)
        for number in numbers:
            picture, _ = make_picture(number, size=32, defect=folder == "dent")
            Image.fromarray(picture).save(tmp_path / "few" / folder / f"{number}.png")
    return tmp_path / "few"


def test_a_training_tells_records_and_shows_what_was_read(run_ad, mean_picture, few, tmp_path):
    put(few, "loose.png")
    run = tmp_path / "run"
    status, out, err = run_ad("train", "folder", few, mean_picture, "--output", run, "--json")
    assert status == 0
    shown = "few: good to learn from 6, good to test with 2, dent 2\nleft out: 1: 1 in `.`"
    assert shown in err
    assert err.index("few: good to learn") < err.index("checking: 10 pictures")
    note = next(note for note in json.loads(out)["notes"] if "left out of the data" in note)
    assert "`loose.png`" in note
    read = json.loads((run / "run.json").read_text())["read"]
    assert [part["pictures"] for part in read["read"]] == [6, 2, 2]
    assert read["left_out"][0]["example"] == "loose.png"
    page = (run / "report.html").read_text()
    assert "good to learn from 6, good to test with 2, dent 2" in page


def test_data_show_says_it_without_learning(run_ad, parts, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = run_ad("data", "show", "folder", parts)
    assert status == 0
    assert all(words in out for words in ("good to learn from", "masks of no picture", "loose.png"))
    assert max(map(len, out.splitlines())) <= 80
    assert "note: 4 files were left out of the data" in err
    status, out, _ = run_ad("data", "show", "folder", parts, "--json")
    found = json.loads(out)
    assert sum(one["files"] for one in found["left_out"]) == 8
    assert [part["name"] for part in found["read"]][-1] == "dent"


def test_data_show_says_that_nothing_is_left_out(run_ad, few):
    status, out, _ = run_ad("data", "show", "folder", "all", "--data-root", few)
    assert status == 0
    assert "nothing is left out" in out


def test_other_test_pictures_than_the_training_had_are_told(mean_picture, few, tmp_path):
    run = tmp_path / "run"
    train("folder", str(few), mean_picture, output_dir=run)
    assert not any("training's figures" in note for note in evaluate(run).notes)
    picture, _ = make_picture(2000, size=32, defect=True)
    Image.fromarray(picture).save(few / "dent/2000.png")
    words = "not those of the training's figures: 4 then, 5 now. New figures"
    assert any(words in note for note in evaluate(run).notes)
    (few / "dent/2000.png").unlink()
    (few / "dent/1000.png").write_bytes((few / "dent/1001.png").read_bytes() + b"\0")
    assert any("4 then, 4 now, others or changed ones" in note for note in evaluate(run).notes)


@pytest.mark.parametrize("again", [evaluate, write_report])
def test_a_report_of_other_test_pictures_says_so_though_the_figures_are_the_same(
    mean_picture, few, tmp_path, again
):
    run = tmp_path / "run"
    train("folder", str(few), mean_picture, output_dir=run)
    picture, _ = make_picture(2000, size=32, defect=True)
    Image.fromarray(picture).save(few / "dent/2000.png")
    again(run)
    notes = Page(run / "report.html").data["notes"]
    assert not any("figures differ" in note for note in notes)
    assert sum("training's figures: 4 then, 5 now" in note for note in notes) == 1
    assert any("No defective picture has a mask" in note for note in notes)


def test_a_report_has_what_an_evaluation_found_and_the_training_did_not_look_for(
    mean_picture, few, tmp_path
):
    run = tmp_path / "run"
    notes = train("folder", str(few), mean_picture, output_dir=run).notes
    figures = json.loads((run / "metrics.json").read_text())
    figures["notes"] = []  # as a version that looked for less has left it
    (run / "metrics.json").write_text(json.dumps(figures))
    evaluate(run)
    assert set(Page(run / "report.html").data["notes"]) > set(notes)


def test_other_masks_and_validation_pictures_than_the_training_had_are_told(
    mean_picture, toy_root, tmp_path
):
    run, folder = tmp_path / "run", toy_root / "toy"
    (folder / "validation/good").mkdir(parents=True)
    for number in (0, 1):
        Image.fromarray(make_picture(700 + number, size=32)[0]).save(
            folder / f"validation/good/{number}.png"
        )
    train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=run)
    assert not any("those of the training" in note for note in evaluate(run, report=False).notes)
    mask = next((folder / "ground_truth/square").iterdir())
    Image.new("L", (32, 32), 255).save(mask)
    words = "The masks are not those of the training's figures: 4 then, 4 now, others or changed"
    assert any(note.startswith(words) for note in evaluate(run, report=False).notes)
    mask.unlink()
    Image.fromarray(make_picture(702, size=32)[0]).save(folder / "validation/good/2.png")
    notes = evaluate(run, report=False).notes
    assert any("figures: 4 then, 3 now. New figures of pixels" in note for note in notes)
    assert any("threshold is set with are not those" in note for note in notes)
    assert any("2 then, 3 now. It was not set anew by this." in note for note in notes)


def test_folders_that_are_counted_as_one_kind_are_told_with_how_to_tell_them_apart(tmp_path):
    root = put(tmp_path / "parts", *(f"good/{n}.png" for n in range(4)))
    put(root, "NOK/Riss/0.png", "NOK/Riss/1.png", "NOK/Lunker/deep/0.png", "dent/lot/0.png")
    (note,) = inventory(FOLDER, root).notes()
    assert note == (
        f"All folders in `{root}/NOK` are counted as one kind of defect, `NOK`: `Lunker` (1) and "
        f"`Riss` (2). If they are kinds of their own, move them into `{root}`."
    )
    put(root, "NOK/7.png", "dent/7.png", "masks/NOK/Riss/0.png")
    (note,) = inventory(FOLDER, root).notes()
    assert "`Lunker` (1), `Riss` (2) and what lies beside them (1). If" in note
    assert note.endswith(f"into `{root}`, and their masks likewise. So it is in `{root}/dent`.")
    (root / "NOK/Riss").rename(root / "Riss")
    (root / "masks/NOK/Riss").rename(root / "masks/Riss")
    (root / "NOK/7.png").unlink()
    (root / "dent/7.png").unlink()
    found = inventory(FOLDER, root)
    assert {part.name for part in found.parts if "good" not in part.name} == {"NOK", "Riss", "dent"}
    assert found.notes() == []


def test_many_folders_of_one_kind_are_counted_beyond_the_first_in_a_test_folder(tmp_path):
    root = put(tmp_path / "nut", "train/good/0.png", *(f"test/NOK/{n}/0.png" for n in range(9)))
    put(root, *(f"test/{kind}/{n}/0.png" for kind in ("a", "b") for n in range(2)))
    (note,) = inventory(MVTEC, root).notes()
    assert "`4` (1), `5` (1) and 3 more. If they are kinds of their own, move them into" in note
    assert note.endswith(f"into `{root}/test`. So it is in `{root}/test/a` and 1 more.")


def test_folders_of_kinds_that_a_table_names_are_not_told(tmp_path):
    put(tmp_path, "good/0.png", "dent/1/0.png", "dent/2/0.png")
    (tmp_path / "all.csv").write_text(
        "image,label,split,group\ngood/0.png,0,train,\ndent/1/0.png,1,test,dent\n"
        "dent/2/0.png,1,test,dent\n"
    )
    assert inventory(CSV, tmp_path / "all.csv").notes() == []


def test_a_training_and_ad_data_show_tell_folders_of_one_kind(mean_picture, run_ad, tmp_path):
    root = put(tmp_path / "parts", *(f"good/{n}.png" for n in range(10)))
    put(root, "NOK/Riss/0.png", "NOK/Lunker/0.png")
    result = train("folder", root, mean_picture, output_dir=tmp_path / "run")
    (note,) = (one for one in result.notes if "counted as one kind of defect" in one)
    assert note in Page(tmp_path / "run/report.html").data["notes"]
    status, out, _ = run_ad("data", "show", "folder", root, "--json")
    assert status == 0
    assert note in json.loads(out)["notes"]
