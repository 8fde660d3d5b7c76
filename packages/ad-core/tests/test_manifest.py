import hashlib
import json
import os

import pytest

from ad.core.data.manifest import NAME, compare, write_manifest
from ad.core.errors import DataError, OutputError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    for name, content in (("a/0.png", b"zero"), ("a/1.png", b"one"), ("b/2.png", b"two")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_a_manifest_holds_size_and_sha256_of_every_file(folder):
    assert write_manifest(folder, folder / NAME) == 3
    assert json.loads((folder / NAME).read_text()) == {
        "schema": 1,
        "files": {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in (("a/0.png", b"zero"), ("a/1.png", b"one"), ("b/2.png", b"two"))
        },
    }


def test_nothing_changed(folder):
    write_manifest(folder, folder / NAME)
    found = compare(folder, folder / NAME)
    assert found.same
    assert found.num_files == 3


def test_missing_new_and_changed_files_are_found_also_at_equal_size_and_time(folder):
    write_manifest(folder, folder / NAME)
    times = (folder / "a/0.png").stat()
    (folder / "a/0.png").write_bytes(b"zer0")
    os.utime(folder / "a/0.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    (folder / "a/1.png").write_bytes(b"one more")
    (folder / "b/2.png").rename(folder / "b/3.png")
    found = compare(folder, folder / NAME)
    assert not found.same
    assert (found.missing, found.new) == (("b/2.png",), ("b/3.png",))
    assert found.changed == ("a/0.png", "a/1.png")


def test_a_moved_data_set_is_the_same(folder, tmp_path):
    write_manifest(folder, folder / NAME)
    moved = folder.rename(tmp_path / "elsewhere")
    assert compare(moved, moved / NAME).same


def test_hidden_files_and_any_manifest_of_its_own_are_no_part_of_a_data_set(folder):
    write_manifest(folder, folder / NAME)
    write_manifest(folder, folder / "other.json")
    (folder / ".DS_Store").touch()
    (folder / ".cache").mkdir()
    (folder / ".cache/x").touch()
    assert compare(folder, folder / "other.json").same


def test_linked_folders_are_followed_and_circles_are_not(folder, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/3.png").write_bytes(b"three")
    (folder / "c").symlink_to(tmp_path / "store")
    (folder / "a/again").symlink_to(folder)
    assert write_manifest(folder, folder / NAME) == 4
    (tmp_path / "store/3.png").write_bytes(b"thr33")
    assert compare(folder, folder / NAME).changed == ("c/3.png",)


def test_a_file_that_cannot_be_read_is_named(folder):
    (folder / "b/4.png").symlink_to(folder / "nowhere")
    with pytest.raises(DataError, match=r"b/4\.png` cannot be read \(No such file"):
        write_manifest(folder, folder / NAME)


@pytest.mark.parametrize(("name", "words"), [("nowhere", "no folder"), ("empty", "holds no files")])
def test_a_missing_or_empty_folder_is_refused(tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=words):
        write_manifest(tmp_path / name, tmp_path / "m.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", "is no manifest of a data set .*Name the one that `ad data verify` wrote"),
        ("[]", "is no manifest of a data set"),
        ('{"schema": 1, "files": {"a": {}}}', "is no manifest of a data set"),
        ('{"schema": 2, "files": {}}', "format 2; this version of ad-core reads format 1"),
    ],
)
def test_what_is_no_manifest_is_refused(folder, tmp_path, text, words):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(DataError, match=words):
        compare(folder, tmp_path / "m.json")


def test_a_manifest_that_cannot_be_written_hints_at_another_place(folder, tmp_path):
    with pytest.raises(OutputError, match="cannot be written(.|\n)*hint: `--manifest FILE`"):
        write_manifest(folder, tmp_path / "nowhere" / "m.json")


def test_verify_finds_what_changed_since_the_manifest_was_written(run_ad, folder):
    status, out, err = run_ad("data", "verify", folder)
    assert (status, out) == (1, "")
    assert f"no manifest `{folder / NAME}`.\n\nhint: `--write` writes it" in err
    assert not (folder / NAME).exists()

    status, out, err = run_ad("data", "verify", folder, "--write")
    assert (status, out) == (0, "")
    assert f"wrote the manifest of 3 files to {folder / NAME}; nothing was compared" in err
    status, out, err = run_ad("data", "verify", folder)
    assert (status, out) == (0, "")
    assert f"3 files are as in {folder / NAME}" in err

    (folder / "a/0.png").write_bytes(b"zer0")
    (folder / "a/1.png").unlink()
    status, out, err = run_ad("data", "verify", folder)
    assert (status, out) == (1, "missing a/1.png\nchanged a/0.png\n")
    assert f"not as in {folder / NAME}: 1 missing, 1 changed\n\nhint: if that is meant" in err

    assert run_ad("data", "verify", folder, "--write")[0] == 0
    assert run_ad("data", "verify", folder)[0] == 0


def test_verify_speaks_json_and_keeps_its_manifest_elsewhere(run_ad, folder, tmp_path):
    file = tmp_path / "manifests.json"
    arguments = ("data", "verify", folder, "--manifest", file, "--json")
    first = {"schema": 1, "manifest": str(file), "written": True, "files": 3}
    status, out, _ = run_ad(*arguments, "--write")
    assert (status, json.loads(out)) == (0, first)
    (folder / "new.png").touch()
    status, out, _ = run_ad(*arguments)
    lists = {"missing": [], "new": ["new.png"], "changed": []}
    assert (status, json.loads(out)) == (1, {**first, "written": False, "files": 4, **lists})
    assert not (folder / NAME).exists()
