"""Folders of good parts, in which defective ones must not lie; by the names of folders alone."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

from ad.runtime.errors import DataError
from ad.runtime.pictures.masks import tell_apart
from ad.runtime.pictures.names import meaning_of

NO_PICTURES = "The folder `{folder}` holds no pictures (.jpg, .png, .bmp, .tif, ...)."


def pictures_of_good_parts(folder: Path) -> list[Path]:
    """The pictures below a folder that holds none but good ones, as far as names tell.

    Returns:
        Sorted by path; none if there are none.

    Raises:
        DataError: If there is no such folder, or it holds some that may not be good.
    """
    if not folder.is_dir():
        msg = f"There is no folder `{folder}`. Give a folder of good pictures."
        raise DataError(msg)
    if (role := meaning_of(folder.absolute().name).role) in ("defective", "masks"):
        msg = (
            f"`{folder}` is called like a folder of {role}{' pictures' * (role == 'defective')}, "
            "and the threshold would be set on these. Give a folder of good pictures, or name it "
            "so."
        )
        raise DataError(msg)
    found, masks = tell_apart(folder)
    if (other := _not_good(folder, found, masks)) is not None:
        msg = (
            f"`{folder}` does not hold good pictures alone: `{other.relative_to(folder)}` lies in "
            "it, and the threshold would be set on defects. Give the folder of the good ones. To "
            "use all of it, lay it out as for training (`good`, a folder for each kind of defect, "
            "`masks`) and give it as `--validation` (`validation=` in Python)."
        )
        raise DataError(msg)
    return found


def not_good(folder: Path, pictures: Sequence[Path], kinds: Container[str] = ()) -> Path | None:
    """The first picture below a folder of good parts that may not be good."""
    others = []
    for path in pictures:
        names = path.relative_to(folder).parts[:-1]
        roles = {meaning_of(name).role for name in names}
        if "defective" in roles or any(name in kinds for name in names):
            return path
        if "good" not in roles:
            others.append(path)
    if meaning_of(folder.name).role == "good" or len(others) == len(pictures):
        return None
    return others[0] if others else None  # some are said to be good, and these are not


def _not_good(folder: Path, pictures: Sequence[Path], masks: Sequence[Path]) -> Path | None:
    """The first picture that may not be good, as the names of the folders around it say."""
    own = meaning_of(folder.resolve().name).role
    if (bad := not_good(folder, pictures)) is not None:
        return bad
    said_good = True
    below = [path for path in pictures if path.parent != folder]
    if own != "good" and 0 < len(below) < len(pictures):  # may be of a kind of defect
        return below[0]
    for path in pictures:
        roles = {meaning_of(name).role for name in path.relative_to(folder).parts[:-1]}
        if "doubtful" in roles:
            return path
        said_good = said_good and "good" in roles
    return masks[0] if masks and not said_good else None  # masks are of defects
