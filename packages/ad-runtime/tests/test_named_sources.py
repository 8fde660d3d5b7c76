"""What the arguments of a command that predicts name: patterns, lists and stdin."""

import io
import os
import sys
import types

import pytest
from black_pictures import put

from ad.runtime.errors import DataError, PathError
from ad.runtime.sources import named_sources


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Three pictures in two folders, one of them named like a pattern; the current folder."""
    put(tmp_path, "new/a.png", "new/[1].png", "new/deep/b.jpg")
    (tmp_path / "new/notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def named(*names, **given):
    return [path.as_posix() for path in named_sources(names, **given)]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("new/**/*.png", ["new/[1].png", "new/a.png"]),
        ("new/**", ["new/[1].png", "new/a.png", "new/deep/b.jpg"]),
        ("new/*", ["new/[1].png", "new/a.png", "new/deep"]),
        ("ne?", ["new"]),
        ("new/[1].png", ["new/[1].png"]),  # a file of that name comes before what it matches
        ("new/[a].png", ["new/a.png"]),
    ],
)
def test_a_pattern_that_the_shell_left_is_expanded(tree, pattern, found):
    assert named(pattern) == found


def test_a_pattern_matches_no_heat_maps_and_says_so(tree):
    put(tree, "new/predictions/heatmaps/0001-a.png")
    (tree / "new/predictions/predictions.csv").touch()
    with pytest.warns(UserWarning, match=r"Of what `new/\*\*/\*.png` matches, 1 \(what `ad` wrote"):
        assert named("new/**/*.png") == ["new/[1].png", "new/a.png"]
    assert named("new/predictions/heatmaps/*.png") == ["new/predictions/heatmaps/0001-a.png"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("new/*.gif", r"The pattern `new/\*.gif` matches no picture .* and there is no file of th"),
        ("new/*.txt", r"no file of that name\. It matches 1 that are neither\."),
    ],
)
def test_a_pattern_that_matches_no_picture_is_refused(tree, pattern, words):
    with pytest.raises(DataError, match=words):
        named(pattern)


@pytest.mark.parametrize(
    "content",
    [
        b"new/a.png\nnew/[1].png\n\nnew/deep\n",
        b"\xef\xbb\xbfnew/a.png\r\nnew/[1].png\r\nnew/deep",
        b"new/a.png\0new/[1].png\0new/deep\0",
    ],
)
def test_a_list_names_pictures_and_folders_from_the_current_folder_on(tree, content, monkeypatch):
    (tree / "lists").mkdir()
    (tree / "lists/l.txt").write_bytes(content)
    wanted = ["new/a.png", "new/[1].png", "new/deep"]
    assert named(listed="lists/l.txt") == wanted
    assert named("new", listed="lists/l.txt") == ["new", *wanted]
    stdin = types.SimpleNamespace(buffer=io.BytesIO(content))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert named("new", "-") == ["new", *wanted]


def test_names_of_any_bytes_are_those_of_files(tree):
    names = [b"a\xff.png", b" b.png ", "c\u2028.png".encode()]
    for name in names:
        (tree / os.fsdecode(name)).touch()
    (tree / "l.txt").write_bytes(b"\n".join(names))
    assert [os.fsencode(path) for path in named_sources([], listed=tree / "l.txt")] == names
    (tree / "d\n.png").touch()
    (tree / "l.txt").write_bytes(b"d\n.png\0")
    assert named(listed="l.txt") == ["d\n.png"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"new/a.png\n\nnew/none.png\n",
            r"Line 3 of the list `l.txt`: There is no picture or f",
        ),
        (b"none.png", r"`none.png`\. Relative names begin at the current folder, `/"),
        (b"new/a.png\0none.png", r"Name 2 of the list"),
        (b"\n \n", r"the list `l.txt` is empty\. It takes the name of one a line\."),
        (b"new/*.png", r"Line 1 of .* no picture or folder `new/\*.png`"),
    ],
)
def test_a_list_that_names_nothing_is_refused(tree, content, words):
    (tree / "l.txt").write_bytes(content)
    with pytest.raises(DataError, match=words):
        named(listed="l.txt")


def test_what_names_no_picture_at_all_is_refused(tree, monkeypatch):
    with pytest.raises(DataError, match=r"give pictures, folders, a quoted pattern such as 'new/"):
        named()
    with pytest.raises(DataError, match=r"The list `none` cannot be read \(No such file"):
        named(listed="none")
    with pytest.raises(DataError, match=r"^There is no picture or folder `none.png`\.$"):
        named("none.png")
    with pytest.raises(PathError, match="An empty path was given for a picture or folder"):
        named("")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"")))
    with pytest.raises(DataError, match="stdin is empty"):
        named("-")
