"""A folder of your own pictures.

Good pictures alone are enough to train. Defective ones, and masks of them, are for figures only,
unless a user lends most of them to a model that learns from labelled defects.
What a sub-folder holds is told by its name; a name that can be taken two ways is refused.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from ad.core.data.good import good_pictures, refuse_data_set
from ad.core.data.roots import parts_of
from ad.core.data.samples import DatasetSpec, Sample, split_good
from ad.core.errors import DataError, listed, nearest
from ad.runtime.errors import counted
from ad.runtime.pictures.masks import Masks, MaskTree, several_masks, sort_folder
from ad.runtime.pictures.names import Split, meaning_of, words_of
from ad.runtime.pictures.walking import folders_in, pictures_below, pictures_in

_KEYS = ("normal", "abnormal", "masks")

TREE = """\
<data root>/               one of these; `good` may also be called `normal` or `ok`
  good/*.jpg               good parts
  test_good/*.jpg          optional: good parts to test with; without them a fifth of `good` is
  <any other name>/*.jpg   optional: defective parts, one folder per kind of defect
  masks/<kind>/*.png       optional: masks with the stems of the pictures; also beside them
                           as 000_mask.png, or in a folder `masks` among them
or
  *.jpg                    good parts only
or, as the value of data root, three folders anywhere:
  normal=DIR,abnormal=DIR,masks=DIR   (the last two are optional)
Several categories: a data root that holds one such folder per category.
With `--supervised`, for models that learn from labelled defects, 80 % of each kind of defect are to
train on; where there are defective parts in a folder `test`, all others are.
`ad data show folder PATH` says what is read as what, and what is left out."""


@dataclass(slots=True)
class _Tree:
    """Sub-folders of one category by what they hold."""

    good: list[tuple[Path, Split | None]] = field(default_factory=list)
    """Folders of good parts; where the name does not say what for, None."""
    kinds: list[tuple[Path, str]] = field(default_factory=list)
    """Folders of defective parts with the kind of defect; empty where folders below say it."""
    masks: list[Path] = field(default_factory=list)
    """Folders of masks."""
    to_test: list[Path] = field(default_factory=list)
    """Those of the folders of defective parts that are said to be to test with."""


def categories(root: Path) -> list[str]:
    """Names of the folders that hold good pictures: the root itself, or those below it."""
    parts = _parts(root)
    if parts is not None:
        return ["all"]
    if not root.is_dir():
        return []
    if _has_good(root):
        return [root.resolve().name]
    _refuse_split(root)
    below = [
        folder.name
        for folder in folders_in(root)
        if meaning_of(folder.name).role != "masks" and _has_good(folder)
    ]
    if not below and not pictures_in(root):
        _refuse_only_doubtful(root)
    return below or ([root.resolve().name] if pictures_in(root) else [])


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """Samples of one category.

    Good pictures are split 80 to 20 with the seed if there are defective ones and none that are
    said to be for testing; otherwise all of them are for training.

    Raises:
        DataError: If it cannot be told what a sub-folder holds, or which mask is of which picture.
    """
    return _samples(root, category, seed, labelled=False)


def labelled(root: Path, category: str, seed: int) -> list[Sample]:
    """The same with 80 % of each kind of defect to train on, chosen with the seed.

    Where some are said to be for testing, all others are for training.

    Raises:
        DataError: As `samples`.
    """
    return _samples(root, category, seed, labelled=True)


def _samples(root: Path, category: str, seed: int, *, labelled: bool) -> list[Sample]:
    parts = _parts(root)
    if parts is not None:
        tree = _Tree(good=[(parts["normal"], None)])
        if "abnormal" in parts:
            refuse_data_set(parts["abnormal"])
            tree.kinds = [(parts["abnormal"], "")]
        tree.masks = [parts["masks"]] if "masks" in parts else []
    else:
        below = root / category
        folder = below if not _has_good(root) and below.is_dir() else root
        if not _has_good(folder):
            return _loose(folder, category)
        _refuse_split(folder)
        tree = _sorted(folder)
    kinds = {kind for _, kind in tree.kinds}
    good = [pair for home, split in tree.good for pair in _good(home, split, kinds)]
    bad = _defective(tree)
    lent = _lent(tree, bad, seed) if labelled else set()
    found = [
        Sample(path, 1, "train" if path in lent else "test", category, kind, masks)
        for path, kind, masks in bad
    ]
    undecided = [path for path, split in good if split is None]
    train: list[Path] = undecided
    test: list[Path] = []
    if bad and not any(split == "test" for _, split in good):
        train, test = split_good(undecided, seed)
    return [
        *(Sample(path, 0, "train", category) for path in train),
        *(Sample(path, 0, split, category) for path, split in good if split is not None),
        *(Sample(path, 0, "test", category) for path in test),
        *found,
    ]


def _parts(root: Path) -> dict[str, Path] | None:
    """Read ``normal=DIR,abnormal=DIR,masks=DIR``; None for a plain folder."""
    text = str(root)
    if "=" not in text or root.exists():
        return None
    parts: dict[str, Path] = {}
    for key, value in parts_of(text):
        if key not in _KEYS:
            msg = (
                f"A data root of parts reads `normal=DIR,abnormal=DIR,masks=DIR`; got `{key}=`."
                f"{nearest(key, _KEYS)}"
            )
            raise DataError(msg)
        if key in parts:
            msg = f"`{key}=` is given twice: `{parts[key]}` and `{value}`. Leave out one."
            raise DataError(msg)
        if not Path(value).is_dir():
            msg = f"The folder `{value}` of `{key}=` does not exist."
            raise DataError(msg)
        parts[key] = Path(value)
    if "normal" not in parts:
        msg = f"A data root of parts needs `normal=DIR`; got {listed(parts)}."
        raise DataError(msg)
    return parts


def _has_good(folder: Path) -> bool:
    """Whether a sub-folder holds good parts to learn from, by its name."""
    meanings = (meaning_of(path.name) for path in folders_in(folder))
    return any(one.role == "good" and one.split in (None, "train") for one in meanings)


def _refuse_split(root: Path) -> None:
    """Refuse a folder that brings its own split: `test` would pass for a category beside `train`.

    Raises:
        DataError: If good pictures are in a folder of `train`.
    """
    for train in folders_in(root):
        if meaning_of(train.name) != ("split", "train"):
            continue
        good = next((p for p in folders_in(train) if meaning_of(p.name).role == "good"), None)
        if good is None:
            continue
        fitting = {("train", "good"): "mvtec", ("train", "ok"): "btad"}.get((train.name, good.name))
        data = shlex.join([root.resolve().name, "MODEL", "--data-root", str(root)])
        learnt = "test pictures would be learnt from."
        if fitting is not None:
            msg = (
                f"`{root}` is laid out as `{fitting}`, with `train/{good.name}` and `test`. Read "
                f"as `folder`, its {learnt}\nhint: ad train {fitting} {data}"
            )
        else:
            msg = (
                f"`{root}` brings its own split, with `{train.name}/{good.name}`. Read as "
                f"`folder`, its {learnt} The layouts with a split are `mvtec` (`train/good`), "
                "`btad` (`train/ok`) and `csv` (a table of any pictures).\n"
                f"hint: rename `{train.name}/{good.name}` to `train/good`, and its like in `test`, "
                f"then: ad train mvtec {data}"
            )
        raise DataError(msg)


def _loose(folder: Path, category: str) -> list[Sample]:
    """A folder of good pictures and nothing else."""
    for path in folders_in(folder):
        if meaning_of(path.name).role != "masks" and (inside := pictures_below(path)):
            msg = (
                f"`{folder}` holds loose pictures, which are good parts, and the folder "
                f"`{path.name}` with {len(inside)} more: it cannot be told what these are. Put the "
                f"good parts into `{folder / 'good'}` and leave folders of defective ones beside "
                "it, or move the folder away."
            )
            raise DataError(msg)
    beside = set(pictures_in(folder))
    return [
        Sample(path, 0, "train", category)
        for path in sort_folder(folder).pictures
        if path in beside
    ]


def _sorted(folder: Path) -> _Tree:
    """Tell the sub-folders of a category apart by their names.

    Raises:
        DataError: If a name can be taken two ways.
    """
    tree = _Tree()
    for path in folders_in(folder):
        meaning = meaning_of(path.name)
        if not pictures_below(path):
            continue
        match meaning.role:
            case "good":
                tree.good.append((path, meaning.split))
            case "masks":
                tree.masks.append(path)
            case "doubtful":
                _refuse_doubtful(path)
            case "split":
                _add_split(tree, path, meaning.split)
            case _:
                refuse_data_set(path)
                tree.kinds.append((path, path.name))
    if len(tree.masks) > 1:
        msg = (
            f"`{folder}` holds several folders of masks, {listed(path.name for path in tree.masks)}"
            ": it cannot be told which are right. Move the others away."
        )
        raise DataError(msg)
    _refuse_masks_of_one_kind(folder, tree)
    return tree


def _add_split(tree: _Tree, folder: Path, split: Split | None) -> None:
    """Sort a folder such as ``test`` beside ``good``: ``test/good``, ``test/dent``."""
    if split == "train":
        msg = (
            f"`{folder}` lies beside a folder of good parts: it cannot be told which of the two is "
            "to learn from. Put all good parts to learn from into one folder."
        )
        raise DataError(msg)
    if loose := pictures_in(folder):
        msg = (
            f"It cannot be told whether the {counted(len(loose), 'picture', 'pictures')} in "
            f"`{folder}` {'is good. Put it' if len(loose) == 1 else 'are good. Put them'} into "
            f"`{folder.name}_good` and folders of defective parts, one for each kind."
        )
        raise DataError(msg)
    inside = _sorted(folder)
    if inside.kinds and split != "test":
        msg = (
            f"`{folder}` holds defective parts, `{inside.kinds[0][1]}`: a threshold is set with "
            f"good ones alone. Move them beside `{folder.name}`, to test with."
        )
        raise DataError(msg)
    tree.good += [(path, said or split) for path, said in inside.good]
    tree.kinds += inside.kinds
    tree.to_test += [path for path, _ in inside.kinds]
    tree.masks += inside.masks


def _refuse_doubtful(folder: Path) -> NoReturn:
    count = len(pictures_below(folder))
    msg = (
        f"`{folder}` sounds like good parts, but it is not called so: as a kind of defect its "
        f"{counted(count, 'picture', 'pictures')} would count as defective. Rename it: `good` "
        "for parts to learn from, `test_good` for good ones to test with, or the name of a defect."
    )
    raise DataError(msg)


def _refuse_only_doubtful(root: Path) -> None:
    """Refuse a folder whose only good parts, its own or a category's, may be meant by another name.

    Raises:
        DataError: If there is one, such as `healthy`.
    """
    for home in (root, *folders_in(root)):
        for path in folders_in(home):
            if meaning_of(path.name).role == "doubtful" and pictures_below(path):
                _refuse_doubtful(path)


def _refuse_masks_of_one_kind(folder: Path, tree: _Tree) -> None:
    """Refuse ``dent_masks`` and ``masks_dent`` beside ``dent``: other masks may lie elsewhere."""
    kinds = {path.name for path, _ in tree.kinds}
    for path in (*tree.masks, *(path for path, _ in tree.kinds)):
        words = words_of(path.name)
        for kind in kinds - {path.name}:
            own = words_of(kind)
            rest = [word for word in words if word not in own]
            if own and set(own) < set(words) and meaning_of(" ".join(rest)).role == "masks":
                msg = (
                    f"`{path}` seems to hold masks, not defective parts. Masks go into "
                    f"`{folder / 'masks' / kind}`."
                )
                raise DataError(msg)


def _good(folder: Path, split: Split | None, kinds: set[str]) -> list[tuple[Path, Split | None]]:
    """Good pictures with what they are for; folders such as ``good/test`` say it, too."""
    found = []
    for path in good_pictures(folder, kinds):
        names = path.relative_to(folder).parts[:-1]
        said = [meaning.split for name in names if (meaning := meaning_of(name)).split]
        found.append((path, said[0] if said else split))
    return found


Defective = tuple[Path, str, Masks]


def _defective(tree: _Tree) -> list[Defective]:
    """Defective pictures with their kind and masks.

    A folder of masks mirrors the pictures' folders, with the kind's name in it or without.
    """
    trees = [MaskTree(folder) for folder in tree.masks]
    found: list[Defective] = []
    for folder, kind in tree.kinds:
        pictures, beside = sort_folder(folder)
        for path in pictures:
            inside = path.parent.relative_to(folder).parts
            places = ((folder.name, *inside), inside, (folder.name,), ())
            masks = beside.get(path, ())
            for masks_tree in trees:
                other = masks_tree.of(path, *places)
                if masks and other:
                    raise DataError(several_masks(path, (*masks, *other)))
                masks = masks or other
            found.append((path, kind or (inside[0] if inside else folder.name), masks))
        for masks_tree in trees:
            masks_tree.require_use(pictures, (folder.name,))
    for masks_tree in trees:
        masks_tree.require_use([path for path, _, _ in found])
    return found


def _lent(tree: _Tree, bad: list[Defective], seed: int) -> set[Path]:
    """Defective pictures to learn from; see `labelled`."""
    free = [
        (path, kind)
        for path, kind, _ in bad
        if not any(path.is_relative_to(folder) for folder in tree.to_test)
    ]
    if tree.to_test:
        return {path for path, _ in free}
    kinds = dict.fromkeys(kind for _, kind in free)
    own = ([path for path, kind in free if kind == one] for one in kinds)
    return {path for paths in own for path in split_good(paths, seed)[0]}


DATASET = DatasetSpec(
    name="folder",
    summary="a folder of your own pictures: good ones, optionally defective ones and masks",
    tree=TREE,
    source="your own pictures",
    licence="yours",
    categories=categories,
    samples=samples,
    labelled=labelled,
    lends_defects=True,
    kinds_are_folders=True,
    path_as_category=True,
)
