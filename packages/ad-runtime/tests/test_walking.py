"""Which files of a folder are pictures."""

import pytest
from black_pictures import put

from ad.runtime.errors import DataError
from ad.runtime.pictures import walking
from ad.runtime.pictures.walking import everything_below, folders_in, pictures_below, pictures_in


def names(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


@pytest.fixture
def parts(tmp_path):
    """Pictures, what systems put beside them, a run and a prediction."""
    put(tmp_path, "good/b.PNG", "good/a.jpg", "good/day2/c.tif")
    put(tmp_path, "good/.hidden.png", "good/@eaDir/a.jpg", "__MACOSX/good/._a.png")
    put(tmp_path, "runs/first/report/x.png", "old/heatmaps/0001-a.png")
    (tmp_path / "good/notes.txt").touch()
    (tmp_path / "runs/first/run.json").touch()
    (tmp_path / "runs/first/log.jsonl").touch()
    (tmp_path / "old/predictions.csv").touch()
    return tmp_path


def test_pictures_are_found_and_nothing_else(parts):
    assert names(pictures_below(parts), parts) == ["good/a.jpg", "good/b.PNG", "good/day2/c.tif"]
    assert names(pictures_in(parts / "good"), parts) == ["good/a.jpg", "good/b.PNG"]
    assert names(folders_in(parts), parts) == ["good", "runs"]
    assert pictures_below(parts / "nowhere") == folders_in(parts / "nowhere") == []


def test_a_run_and_heat_maps_are_no_pictures_wherever_one_starts(parts):
    for place in ("runs/first", "old", "old/heatmaps"):
        assert pictures_below(parts / place) == pictures_in(parts / place) == []


def test_each_file_that_is_left_out_has_its_reason(parts):
    why = {path.relative_to(parts).as_posix(): why for path, why in everything_below(parts)}
    assert why["good/a.jpg"] is None
    assert why["good/notes.txt"] == walking.OTHER_FORMAT
    assert {name for name in why if why[name] == walking.HIDDEN} == {
        *("good/.hidden.png", "good/@eaDir/a.jpg", "__MACOSX/good/._a.png")
    }
    assert {name for name in why if why[name] == walking.OURS} == {
        *("runs/first/report/x.png", "runs/first/run.json", "runs/first/log.jsonl"),
        *("old/heatmaps/0001-a.png", "old/predictions.csv"),
    }


def test_folders_that_are_links_are_followed_once(tmp_path):
    put(tmp_path, "elsewhere/day2/1.png", "good/0.png")
    (tmp_path / "good/batch").symlink_to(tmp_path / "elsewhere/day2")
    (tmp_path / "good/later").symlink_to(tmp_path / "elsewhere/day2")
    assert names(pictures_below(tmp_path / "good"), tmp_path) == [
        *("good/0.png", "good/batch/1.png")
    ]
    found = {path.name: why for path, why in everything_below(tmp_path / "good/later")}
    assert found == {"1.png": None}
    below = {path.parent.name: why for path, why in everything_below(tmp_path / "good")}
    assert below["later"] == walking.ALIAS


def test_a_link_back_to_a_folder_around_it_is_an_error_that_names_both(tmp_path):
    put(tmp_path, "good/0.png")
    (tmp_path / "good/again").symlink_to(tmp_path)
    with pytest.raises(DataError, match=r"good/again` is a link back to `.*Remove the link"):
        pictures_below(tmp_path / "good/again")
    with pytest.raises(DataError, match="link back"):
        pictures_below(tmp_path)


def test_a_link_to_nothing_is_told(tmp_path):
    put(tmp_path, "good/0.png")
    (tmp_path / "good/1.png").symlink_to(tmp_path / "gone.png")
    assert names(pictures_below(tmp_path), tmp_path) == ["good/0.png"]
    assert (tmp_path / "good/1.png", walking.NO_FILE) in list(everything_below(tmp_path))


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(walking.os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot be listed \(Permission denied\)\. Make it read"):
        pictures_in(tmp_path)


def test_the_link_itself_is_named_and_not_the_real_folder_behind_it(tmp_path):
    put(tmp_path, "good/0.png")
    (tmp_path / "good/again").symlink_to(tmp_path)
    with pytest.raises(DataError, match=r"^`\S+/good/again` is a link back"):
        pictures_below(tmp_path / "good")  # which good/again/good is, too: it must not be removed


def test_a_link_to_a_folder_that_is_gone_is_told(tmp_path):
    put(tmp_path, "good/0.png")
    (tmp_path / "good/batch2").symlink_to(tmp_path / "unmounted")
    assert (tmp_path / "good/batch2", walking.NO_FILE) in list(everything_below(tmp_path))
