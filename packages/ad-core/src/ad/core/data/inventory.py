"""What lies in a data set's folder, what it was read as, and what was left out and why.

What was read is what the samples name; all other files below the root were left out. Torch-free.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ad.core.data.roots import homes
from ad.core.data.samples import DatasetSpec, Sample
from ad.core.errors import ModelFileError
from ad.runtime.errors import counted
from ad.runtime.pictures.names import drawn_from_stem, masked_stem, meaning_of
from ad.runtime.pictures.walking import ALIAS, HIDDEN, OTHER_FORMAT, OURS, everything_below

_GOOD_FOR = {
    "train": "good to learn from",
    "validation": "good to set the threshold with",
    "test": "good to test with",
}
_MASKS_OF_GOOD = "masks of good pictures"
_MASKS_OF_NONE = "masks of no picture that is read"
_DRAWN = "thumbnails and heat maps of pictures"
_EXPECTED = frozenset({_DRAWN, _MASKS_OF_GOOD, ALIAS, HIDDEN, OURS})
_NAMED = 6
"""Folders in that of one kind that a note names."""
_PICTURE_LIKE = (
    *(".7z", ".arw", ".avif", ".cr2", ".cr3", ".dcm", ".dng", ".exr", ".heic", ".heif", ".j2k"),
    *(".jp2", ".jxl", ".nef", ".npy", ".npz", ".orf", ".pbm", ".pnm", ".psd", ".raf", ".rar"),
    *(".raw", ".rw2", ".tga", ".zip"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Pictures of one category that are read as the same."""

    category: str
    """What is shown."""
    name: str
    """``good to learn from``, ``good to test with``, ... or the kind of defect."""
    pictures: int
    """How many there are."""
    masks: int
    """How many of them have masks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Files of one folder that are not read for the same reason."""

    folder: str
    """Where they lie, relative to the data root; two folders deep."""
    files: int
    """How many there are."""
    why: str
    """The reason."""
    example: str
    """One of them, relative to the data root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What lies in a data set's folder, by what it was read as."""

    parts: tuple[Part, ...]
    """What is read."""
    left_out: tuple[LeftOut, ...]
    """What is not, the most first."""
    in_one: tuple[str, ...] = field(default=(), compare=False)
    """A note on folders that are counted as one kind of defect; kept with those of a run."""

    def read_as(self) -> list[str]:
        """A line for each category, for a person."""
        of: dict[str, list[Part]] = defaultdict(list)
        for part in self.parts:
            of[part.category].append(part)
        return [f"{name}: {', '.join(map(_counted, parts))}" for name, parts in of.items()]

    def not_read(self, most: int | None = None) -> str:
        """What is left out and why, in one line; empty if nothing is.

        Args:
            most: How many folders are named, those with the most files; None for all.
        """
        count = sum(one.files for one in self.left_out)
        named, rest = self.left_out[:most], self.left_out[len(self.left_out[:most]) :]
        where = [f"{one.files} in `{one.folder}` ({one.why})" for one in named]
        if rest:
            where.append(f"{sum(one.files for one in rest)} in {len(rest)} more")
        return f"{count}: {'; '.join(where)}" if count else ""

    def notes(self) -> list[str]:
        """What a user should know: what may have been meant to be read, and what was put together.

        The former was left out; the latter are folders of one kind of defect.
        """
        meant = [one for one in self.left_out if _may_be_meant(one)]
        if not meant:
            return [*self.in_one]
        count = sum(one.files for one in meant)
        files, where = counted(count, "file was", "files were"), "; ".join(map(_explained, meant))
        return [f"{files} left out of the data: {where}.", *self.in_one]

    def to_json(self) -> dict[str, Any]:
        """For ``run.json`` and ``ad data show --json``; without what `ad` itself wrote there."""
        return {
            "read": [asdict(part) for part in self.parts],
            "left_out": [asdict(one) for one in self.left_out if one.why != OURS],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Inventory:
        """Build from what `to_json` gave.

        Raises:
            ModelFileError: If it is something else.
        """
        try:
            return cls(
                parts=tuple(Part(**part) for part in values["read"]),
                left_out=tuple(LeftOut(**one) for one in values["left_out"]),
            )
        except (TypeError, LookupError) as error:
            msg = f"The record of a run has a malformed entry `read` ({error})."
            raise ModelFileError(msg) from error


def take_inventory(dataset: DatasetSpec, root: Path | None, samples: Sequence[Sample]) -> Inventory:
    """See what lies in a data set's folder beside what was read of it.

    Args:
        dataset: Its layout.
        root: Its folder, as `ad.core.data.finding.locate` gives it; None for the layout's default.
        samples: What was read, of one, several or all categories.

    Raises:
        DataError: If a folder cannot be listed.
    """
    parts = Counter((s.category, _name_of(s)) for s in samples)
    masked = Counter((s.category, _name_of(s)) for s in samples if s.masks)
    if root is None and dataset.default_root is not None:
        root = dataset.default_root()
    return Inventory(
        parts=tuple(
            Part(category=category, name=name, pictures=count, masks=masked[category, name])
            for (category, name), count in parts.items()
        ),
        left_out=() if root is None else tuple(_left_out(dataset, root, samples)),
        in_one=tuple(_kinds_in_one(samples)) if dataset.kinds_are_folders else (),
    )


def _kinds_in_one(samples: Sequence[Sample]) -> list[str]:
    """Tell which folders in that of one kind of defect are counted as that kind.

    They may be kinds of their own, or days and cameras: only the user knows.
    """
    inside: dict[Path, Counter[str]] = defaultdict(Counter)
    masked = set()
    for sample in samples:
        home = next((one for one in sample.path.parents if one.name == sample.group), None)
        if sample.label == 0 or home is None:
            continue
        inside[home][(*sample.path.relative_to(home).parts[:-1], "")[0]] += 1
        if sample.masks:
            masked.add(home)
    mixed = [home for home, counts in inside.items() if len(counts) > 1]
    if not mixed:
        return []
    home, counts = mixed[0], inside[mixed[0]]
    loose = counts.pop("", 0)
    named = [f"`{name}` ({count})" for name, count in [*counts.items()][:_NAMED]]
    if len(counts) > _NAMED:
        named.append(f"{len(counts) - _NAMED} more")
    if loose:
        named.append(f"what lies beside them ({loose})")
    masks = ", and their masks likewise" if home in masked else ""
    others = ""
    if mixed[1:]:
        others = f" So it is in `{mixed[1]}`{f' and {len(mixed) - 2} more' * bool(mixed[2:])}."
    return [
        f"All folders in `{home}` are counted as one kind of defect, `{home.name}`: "
        f"{', '.join(named[:-1])} and {named[-1]}. If they are kinds of their own, move them into "
        f"`{home.parent}`{masks}.{others}"
    ]


def _name_of(sample: Sample) -> str:
    if sample.label == 0:
        return _GOOD_FOR[sample.split]
    return f"{sample.group} to learn from" if sample.split == "train" else sample.group


def _left_out(dataset: DatasetSpec, root: Path, samples: Sequence[Sample]) -> list[LeftOut]:
    known = set(dataset.categories(root))
    wanted = {sample.category for sample in samples}
    read = {sample.path for sample in samples} | {m for sample in samples for m in sample.masks}
    good = {(s.path.parent, s.path.stem) for s in samples if s.label == 0}
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for home in homes(root):
        for path, why in everything_below(home, without=frozenset(known - wanted)):
            if path in read:
                continue
            inside = path.relative_to(home)
            if any(map(inside.match, dataset.also_reads)):
                continue
            reason = why or _why_not_read(dataset, path, inside, good)
            if reason == OTHER_FORMAT:
                reason = f"`{path.suffix}` is {OTHER_FORMAT}" if path.suffix else OTHER_FORMAT
            found["/".join(inside.parts[:-1][:2]), reason].append(inside.as_posix())
    groups = [
        LeftOut(folder=folder or ".", files=len(names), why=why, example=names[0])
        for (folder, why), names in found.items()
    ]
    return sorted(groups, key=lambda one: (-one.files, one.folder, one.why))


def _why_not_read(
    dataset: DatasetSpec, path: Path, inside: Path, good: set[tuple[Path, str]]
) -> str:
    roles = [meaning_of(name).role for name in inside.parts[:-1]]
    stem = masked_stem(path)
    if drawn_from_stem(path) is not None:
        return _DRAWN
    if (path.parent, stem or path.stem) in good or ("masks" in roles and "good" in roles):
        return _MASKS_OF_GOOD
    if "masks" in roles or stem is not None:
        return _MASKS_OF_NONE
    return f"not read by the layout `{dataset.name}`: see `ad datasets {dataset.name}`"


def _may_be_meant(one: LeftOut) -> bool:
    if one.why.endswith(OTHER_FORMAT):
        return Path(one.example).suffix.lower() in _PICTURE_LIKE
    return one.why not in _EXPECTED


def _counted(part: Part) -> str:
    return f"{part.name} {part.pictures}{f' (masks {part.masks})' if part.masks else ''}"


def _explained(one: LeftOut) -> str:
    return f"{one.files} in `{one.folder}` ({one.why}), such as `{one.example}`"
