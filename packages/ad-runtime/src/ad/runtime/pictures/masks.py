"""Which mask belongs to which picture: beside it, in a folder among them, or in a tree of masks.

A mask has the stem of its picture, with or without a mark such as ``_mask``, whatever its suffix.
What fits is used; what fits twice is refused, since one of the two would be wrong.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, final

from ad.runtime.errors import DataError, PictureError, listed
from ad.runtime.pictures.names import (
    drawn_from_stem,
    folded,
    masked_stem,
    meaning_of,
    without_suffix,
)
from ad.runtime.pictures.walking import pictures_below, pictures_in

if TYPE_CHECKING:
    from ad.runtime.pictures.drawn import Look

Masks = tuple[Path, ...]
Place = tuple[str, ...]
"""Names of the folders from the folder of masks down to one in it."""

_NUMBERED = re.compile(r"[-_. ]?\d+$")


class Sorted(NamedTuple):
    """What lies in one folder of parts."""

    pictures: list[Path]
    """Pictures of parts, sorted by path."""
    masks: dict[Path, Masks]
    """Masks that lie among them, by the picture they belong to."""


def tell_apart(folder: Path) -> tuple[list[Path], list[Path]]:
    """Tell the pictures below a folder from the masks that lie among them.

    A mask is what lies in a folder named so, what is named after a picture beside it with a mark
    (``000_mask.png``), and of two files of one stem (``000.jpg``, ``000.png``) the one with two
    values, or one for all pixels. Thumbnails and heat maps beside their pictures are neither.

    Returns:
        Pictures and masks, each sorted by path.

    Raises:
        DataError: If a folder cannot be listed.
    """
    pictures, beside, trees = _told_apart(folder)
    masks = [mask for tree in trees.values() for mask in tree.masks]
    return pictures, sorted([*beside, *masks])


def sort_folder(folder: Path) -> Sorted:
    """Tell the pictures below a folder from masks as `tell_apart`, and find which are of which.

    Raises:
        DataError: If a mask fits several pictures, or a picture several masks that are not
            numbered, or a folder of masks has none for any picture beside it.
    """
    pictures, beside, trees = _told_apart(folder)
    masks: dict[Path, list[Path]] = defaultdict(list)
    for mask, fitting in beside.items():
        if len(fitting) > 1:
            msg = (
                f"The mask `{mask}` fits several pictures beside it, "
                f"{listed(path.name for path in fitting)}: it cannot be that of all. Rename or "
                "remove the others."
            )
            raise DataError(msg)
        masks[fitting[0]].append(mask)
    for home, tree in trees.items():
        near = [path for path in pictures if path.is_relative_to(home.parent)]
        for path in near:
            masks[path] += tree.of(path, path.parent.relative_to(home.parent).parts, ())
        tree.require_use(near)
    for picture, own in masks.items():
        if len(own) > 1 and not _numbered(own):
            raise DataError(several_masks(picture, own))
    return Sorted(pictures, {picture: tuple(own) for picture, own in masks.items() if own})


def _told_apart(
    folder: Path,
) -> tuple[list[Path], dict[Path, list[Path]], dict[Path, MaskTree]]:
    """Pictures, masks beside them with the pictures they may be of, and folders of masks."""
    places: dict[Path, list[Path]] = defaultdict(list)
    trees: dict[Path, MaskTree] = {}
    for path in pictures_below(folder):
        home = _home_of_masks(path, folder)
        if home is None:
            places[path.parent].append(path)
        elif home not in trees:
            trees[home] = MaskTree(home)
    pictures: list[Path] = []
    beside: dict[Path, list[Path]] = {}
    for paths in map(_not_drawn, places.values()):
        masks = _masks_among(paths)
        pictures += [path for path in paths if path not in masks]
        beside |= masks
    return sorted(pictures), beside, trees


@final
class MaskTree:
    """A folder of masks that mirrors folders of pictures.

    Args:
        folder: Of the masks; may be missing, and then there are none.

    Raises:
        DataError: If the folder cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._of: dict[Path, Path] = {}
        by_place: dict[Place, list[Path]] = defaultdict(list)
        for path in pictures_below(folder):
            by_place[path.parent.relative_to(folder).parts].append(path)
        self._by_place = {place: _Stems(masks) for place, masks in by_place.items()}

    @property
    def masks(self) -> list[Path]:
        """All there are."""
        return [mask for stems in self._by_place.values() for mask in stems.masks]

    def of(self, picture: Path, *places: Place) -> Masks:
        """Masks of a picture, from the first of some places below the folder that has any.

        Folders and stems are found in another case, too, where none has the very name.

        Raises:
            DataError: If masks lie at several of the places, one was found for another picture, or
                there are several that are not numbered.
        """
        found = [mask for place in dict.fromkeys(places) for mask in self._at(place, picture.stem)]
        if len(found) > 1 and not _numbered(found):
            raise DataError(several_masks(picture, found))
        for mask in found:
            other = self._of.setdefault(mask, picture)
            if other != picture:
                msg = (
                    f"The mask `{mask}` fits two pictures, `{other}` and `{picture}`: it cannot be "
                    "that of both. Put the masks into a folder for each kind, such as "
                    f"`{self.folder / picture.parent.name / mask.name}`."
                )
                raise DataError(msg)
        return tuple(found)

    def require_use(self, pictures: Sequence[Path], place: Place = ()) -> None:
        """Check that of the masks below a place at least one was found for a picture.

        Args:
            pictures: That they may be of; without any nothing is asked for.
            place: Below the folder; masks of good parts do not count.

        Raises:
            DataError: If there are masks, and `of` found none of them for a picture.
        """
        wanted = _folded(place)
        masks = [
            mask
            for home, stems in self._by_place.items()
            if _folded(home[: len(place)]) == wanted
            and not any(meaning_of(name).role == "good" for name in home)
            for mask in stems.masks
        ]
        if not pictures or not masks or any(mask in self._of for mask in masks):
            return
        stem = pictures[0].stem
        msg = (
            f"None of the {len(masks)} masks in `{self.folder.joinpath(*place)}` has the name of a "
            f"picture: the first is `{masks[0].name}`, and a mask is needed "
            f"for `{pictures[0]}`, such as `{stem}.png` or `{stem}_mask.png` in a folder of its "
            "kind. Rename the masks, or move them away."
        )
        raise DataError(msg)

    def _at(self, place: Place, stem: str) -> list[Path]:
        if place in self._by_place:
            return self._by_place[place].of(stem)
        wanted = _folded(place)
        same = (stems for home, stems in self._by_place.items() if _folded(home) == wanted)
        return [mask for stems in same for mask in stems.of(stem)]


class _Stems:
    """Masks of one folder by the stems of their pictures."""

    def __init__(self, masks: Sequence[Path]) -> None:
        self.masks = masks
        self.exact: dict[str, list[Path]] = defaultdict(list)
        self.folded: dict[str, list[Path]] = defaultdict(list)
        for mask in masks:
            stems = {mask.stem, masked_stem(mask) or without_suffix(mask.stem)}
            for stem in stems:
                self.exact[stem].append(mask)
            for stem in {folded(stem) for stem in stems}:
                self.folded[stem].append(mask)

    def of(self, stem: str) -> list[Path]:
        return self.exact.get(stem) or self.folded.get(folded(stem), [])


def masks_by_stem(folder: Path) -> dict[str, Path]:
    """Masks directly in a folder by the stem of the picture they belong to.

    ``000_mask.png``, ``000_GT.bmp`` and ``000.png`` all belong to picture ``000``.

    Raises:
        DataError: If two belong to the same one.
    """
    found: dict[str, Path] = {}
    for path in pictures_in(folder):
        stem = masked_stem(path) or path.stem
        if stem in found:
            raise DataError(several_masks(Path(stem), (found[stem], path)))
        found[stem] = path
    return found


def pictures_with_masks(folder: Path) -> list[tuple[Path, Path | None]]:
    """Pictures of a folder that holds their masks too, each with its mask if it has one.

    ``000_GT.png``, ``000_label.bmp`` and ``000_mask.png`` are masks; ``000.png`` is a picture.
    """
    paths = pictures_in(folder)
    masks = {stem: path for path in paths if (stem := masked_stem(path)) is not None}
    pictures = [path for path in paths if masked_stem(path) is None]
    return [(path, masks.get(path.stem)) for path in pictures]


def check_masks_fit(folder: Path, pictures: Iterable[Path]) -> None:
    """Check that a folder of masks has one for any picture at all; see `MaskTree.require_use`."""
    tree, pictures = MaskTree(folder), list(pictures)
    for picture in pictures:
        tree.of(picture, ())
    tree.require_use(pictures)


def look_of(path: Path) -> Look | None:
    """How a picture looks if it is taken for a mask; None if it cannot be read."""
    from ad.runtime.pictures import drawn  # with Pillow, which naming layouts does not need

    try:
        return drawn.look_of(path)
    except PictureError:  # told of where it is read as a picture
        return None


def _not_drawn(paths: Sequence[Path]) -> list[Path]:
    """Files of one folder without thumbnails and heat maps of pictures beside them."""
    stems = {folded(path.stem) for path in paths}
    return [path for path in paths if folded(drawn_from_stem(path) or "") not in stems]


def _masks_among(paths: Sequence[Path]) -> dict[Path, list[Path]]:
    """Masks among the files of one folder, each with the pictures it may be of."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        by_stem[folded(path.stem)].append(path)
    found: dict[Path, list[Path]] = {}
    for path in paths:
        stem = masked_stem(path)
        pictures = [] if stem is None else by_stem.get(folded(stem), [])
        exact = [picture for picture in pictures if picture.stem == stem]
        if pictures:
            found[path] = exact or pictures
    for same in by_stem.values():
        if len({path.stem for path in same}) == 1 < len(same):
            drawn = [path for path in same if (look := look_of(path)) and look.drawn]
            for mask in drawn if len(drawn) < len(same) else ():
                found[mask] = [path for path in same if path not in drawn]
    return {
        mask: [path for path in pictures if path not in found] or pictures
        for mask, pictures in found.items()
    }


def _home_of_masks(path: Path, folder: Path) -> Path | None:
    """The outermost folder of masks around a file, below a folder."""
    inside = path.relative_to(folder).parts[:-1]
    for depth, name in enumerate(inside, start=1):
        if meaning_of(name).role == "masks":
            return folder.joinpath(*inside[:depth])
    return None


def _folded(place: Place) -> Place:
    return tuple(folded(name) for name in place)


def _numbered(masks: Sequence[Path]) -> bool:
    """Whether all but one are told apart by numbers: ``000_mask``, ``000_mask_2``."""
    return (
        len({mask.stem for mask in masks}) == len(masks)
        and sum(
            masked_stem(mask) is not None and _NUMBERED.search(mask.stem) is not None
            for mask in masks
        )
        >= len(masks) - 1
    )


def several_masks(picture: Path, masks: Sequence[Path]) -> str:
    """Say that a picture has more than one mask."""
    return (
        f"There are {len(masks)} masks of the picture `{picture}`: "
        f"{listed(str(mask) for mask in masks)}. Keep one, or number them (`{picture.stem}_mask_1."
        f"png`, `{picture.stem}_mask_2.png`) if all count together."
    )
