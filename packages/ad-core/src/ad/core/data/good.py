"""Folders of good parts, in which defective ones must not lie, and the other way round."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from ad.core.errors import DataError
from ad.runtime.errors import counted
from ad.runtime.pictures.good import not_good
from ad.runtime.pictures.masks import sort_folder
from ad.runtime.pictures.names import meaning_of
from ad.runtime.pictures.walking import folders_in, pictures_below


def good_pictures(folder: Path, kinds: Container[str] = ()) -> list[Path]:
    """Pictures below a folder of good parts, sorted by path.

    Args:
        folder: Of good parts.
        kinds: Names of folders that hold defective parts of the same category.

    Raises:
        DataError: If some may not be good, by the names of the folders around them.
    """
    pictures = sort_folder(folder).pictures
    if (path := not_good(folder, pictures, kinds)) is not None:
        inside = folder / path.relative_to(folder).parts[0]
        count = sum(one.is_relative_to(inside) for one in pictures)
        msg = (
            f"`{inside}` lies among the good parts and is called defective: its "
            f"{counted(count, 'picture', 'pictures')} would count as good. Move it beside "
            f"`{folder.name}`, or out of the data."
        )
        raise DataError(msg)
    return pictures


def refuse_data_set(folder: Path) -> None:
    """Refuse a folder of one kind of defect that has good parts or splits in it.

    Raises:
        DataError: If it has.
    """
    for path in _folders_below(folder):
        if meaning_of(path.name).role in ("good", "split", "doubtful") and pictures_below(path):
            msg = (
                f"`{folder}` would hold defective parts, and has `{path.relative_to(folder)}` in "
                "it, as a data set of its own has. Move it away, or put defective parts alone "
                "into the folder."
            )
            raise DataError(msg)


def _folders_below(folder: Path) -> list[Path]:
    inside = folders_in(folder)
    return [*inside, *(path for one in inside for path in _folders_below(one))]
