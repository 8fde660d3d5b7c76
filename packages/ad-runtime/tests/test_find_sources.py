"""Which files of a folder a prediction is about."""

import warnings

import pytest
from black_pictures import put

from ad.runtime.errors import DataError
from ad.runtime.sources import find_sources


@pytest.fixture
def tree(tmp_path):
    """Two parts, masks under three kinds of names, an earlier prediction."""
    put(tmp_path, "good/0.png", "dent/1.png", "dent/1_mask.png", "masks/dent/1.png")
    put(tmp_path, "dent/gt/1.png", "predictions/heatmaps/0001-a.png")
    (tmp_path / "predictions/predictions.csv").touch()
    return tmp_path


def test_masks_and_heat_maps_are_not_scored_and_it_is_said(tree):
    words = r"Of the files in .*, 1 \(what `ad` wrote: .*\), 3 \(masks\) are no pictures of parts"
    with pytest.warns(UserWarning, match=words):
        sources = find_sources(tree)
    assert [path.relative_to(tree).as_posix() for path in sources] == ["dent/1.png", "good/0.png"]


def test_pictures_alone_give_no_warning(tmp_path):
    put(tmp_path, "day1/0.png", "day1/.hidden.png", "blue_label.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(find_sources(tmp_path)) == 2


def test_a_folder_with_nothing_but_heat_maps_says_so(tree):
    with pytest.raises(DataError, match=r"holds no pictures .*; 1 \(what `ad` wrote: runs, pred"):
        find_sources(tree / "predictions/heatmaps")


def test_a_folder_of_masks_is_scored_where_it_is_named(tree):
    assert [path.name for path in find_sources(tree / "masks")] == ["1.png"]
    assert find_sources([tree / "dent/1_mask.png"]) == [tree / "dent/1_mask.png"]
