"""Pictures for a threshold: good ones that a detector has not learnt from, or labelled ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ad.core.data.contents import copies_of
from ad.core.data.finding import collect, refuse_one_file_twice
from ad.core.data.roots import not_read
from ad.core.data.samples import Sample
from ad.core.errors import DataError
from ad.core.jobs.data_now import data_now
from ad.core.registry import get_dataset
from ad.runtime.pictures.good import NO_PICTURES, pictures_of_good_parts
from ad.runtime.pictures.masks import tell_apart
from ad.runtime.progress import Progress
from ad.runtime.recalibrating import UNCHECKED

_SO_UNCHECKED = "so it could not be checked that these pictures are new to it."
_GONE = f"The run's data are not where they were, {_SO_UNCHECKED}"


def good_pictures(folder: Path) -> list[Sample]:
    """The pictures below a folder, all of them good; see `ad.runtime.pictures.good`.

    Raises:
        DataError: If there are none, or some that may not be good, or one file is there twice.
    """
    found = pictures_of_good_parts(folder)
    if not found:
        raise DataError(NO_PICTURES.format(folder=folder) + not_read(folder))
    samples = [Sample(path, 0, "test", folder.name) for path in found]
    refuse_one_file_twice(samples)
    return samples


def labelled_pictures(folder: Path) -> list[Sample]:
    """The good and the defective pictures of a folder in the layout ``folder``.

    Raises:
        DataError: If there are none of either kind.
    """
    samples = collect(get_dataset("folder"), "all", root=folder, seed=0)
    for label, noun in ((0, "good"), (1, "defective")):
        if not any(sample.label == label for sample in samples):
            msg = (
                f"`{folder}` holds no {noun} pictures: choosing a threshold by F1 needs good ones "
                "in `good` and defective ones in a folder beside it. With good ones alone, give "
                "them as `--normals DIR` (`normals=` in Python)."
            )
            raise DataError(msg)
    return samples


def refuse_known(home: Path | None, samples: Sequence[Sample], progress: Progress) -> str | None:
    """Refuse pictures that were learnt from, which score lower than new ones and so tell nothing.

    Refuse also those given as good that are defective parts or masks in the run's own data.

    Returns:
        Why it is not known which these are; None if it is.
    """
    if home is None:
        return UNCHECKED
    now = data_now(home, progress)
    if now is None:
        return _GONE
    bad = {path.resolve() for s in now.samples if s.label for path in (s.path, *s.masks)}
    if wrong := [s.path for s in samples if s.label == 0 and s.path.resolve() in bad]:
        msg = (
            f"{len(wrong)} of {len(samples)} pictures are defective parts or masks in the data of "
            f"`{home}`, such as `{wrong[0]}`: a threshold is set with good ones. Give those."
        )
        raise DataError(msg)
    if seen := copies_of(samples, now.learning):
        how = "has learnt from or was chosen by" if now.chosen_by else "has learnt from"
        msg = (
            f"{len(seen)} of {len(samples)} pictures are among those that `{home}` {how}, such as "
            f"`{seen[0]}`: they score lower than new ones, and a threshold set on them would give "
            "many false alarms. Give pictures that it has not seen."
        )
        raise DataError(msg)
    if now.changed is None:
        return None
    return _GONE if not now.changed else f"{now.changed}, {_SO_UNCHECKED}"


def any_pictures(folder: Path) -> tuple[list[Sample], bool]:
    """The pictures below a folder, and whether it is known which of them are defective.

    That is known where they lie in the layout ``folder``, good ones and defective ones.

    Raises:
        DataError: If there are none.
    """
    if not folder.is_dir():
        msg = f"There is no folder `{folder}`. Give a folder of pictures."
        raise DataError(msg)
    try:
        return labelled_pictures(folder), True
    except DataError:
        found, _ = tell_apart(folder)
    if not found:
        raise DataError(NO_PICTURES.format(folder=folder) + not_read(folder))
    return [Sample(path, 0, "test", folder.name) for path in found], False
