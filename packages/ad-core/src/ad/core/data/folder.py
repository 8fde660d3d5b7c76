"""A folder of your own pictures.

Good pictures alone are enough to train. Defective ones, and masks of them, are for figures only.
"""

from __future__ import annotations

import functools
from pathlib import Path

from ad.core.data.samples import (
    GOOD,
    DatasetSpec,
    Sample,
    check_masks_fit,
    folders_in,
    masks_by_stem,
    pictures_below,
    pictures_in,
    split_good,
)
from ad.core.errors import DataError, listed, nearest

_NORMAL_NAMES = (GOOD, "normal", "ok")
_MASK_NAMES = ("masks", "mask", "ground_truth")
_KEYS = ("normal", "abnormal", "masks")

TREE = """\
<data root>/               one of these; `good` may also be called `normal` or `ok`
  good/*.jpg               good parts
  <any other name>/*.jpg   optional: defective parts, one folder per kind of defect
  masks/<kind>/*.png       optional: masks with the stems of the pictures
or
  *.jpg                    good parts only
or, as the value of data root, three folders anywhere:
  normal=DIR,abnormal=DIR,masks=DIR   (the last two are optional)
Several categories: a data root that holds one such folder per category."""


def categories(root: Path) -> list[str]:
    """Names of the folders that hold good pictures: the root itself, or those below it."""
    parts = _parts(root)
    if parts is not None:
        return ["all"]
    if not root.is_dir():
        return []
    if _normal_folder(root) is not None:
        return [root.resolve().name]
    _refuse_split(root)
    below = [folder.name for folder in folders_in(root) if _normal_folder(folder) is not None]
    return below or ([root.resolve().name] if pictures_in(root) else [])


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """Samples of one category.

    Good pictures are split 80 to 20 with the seed if there are defective ones; otherwise all of
    them are for training and there is nothing to test with.
    """
    parts = _parts(root)
    if parts is not None:
        normal = pictures_below(parts["normal"])
        masks = parts.get("masks")
        abnormal = _abnormal(parts.get("abnormal"), masks)
    else:
        below = root / category
        folder = below if _normal_folder(root) is None and below.is_dir() else root
        home = _normal_folder(folder)
        normal = pictures_in(folder) if home is None else pictures_below(home)
        abnormal = [] if home is None else _kinds(folder, home)
    train, test = split_good(normal, seed) if abnormal else (normal, [])
    return [
        *(Sample(path, 0, "train", category) for path in train),
        *(Sample(path, 0, "test", category) for path in test),
        *(Sample(path, 1, "test", category, kind, masks) for path, kind, masks in abnormal),
    ]


def _parts(root: Path) -> dict[str, Path] | None:
    """Read ``normal=DIR,abnormal=DIR,masks=DIR``; None for a plain folder."""
    text = str(root)
    if "=" not in text or root.exists():
        return None
    parts = {}
    for piece in text.split(","):
        key, _, value = piece.partition("=")
        if key not in _KEYS:
            msg = (
                f"A data root of parts reads `normal=DIR,abnormal=DIR,masks=DIR`; got `{key}=`."
                f"{nearest(key, _KEYS)}"
            )
            raise DataError(msg)
        if not Path(value).is_dir():
            msg = f"The folder `{value}` of `{key}=` does not exist."
            raise DataError(msg)
        parts[key] = Path(value)
    if "normal" not in parts:
        msg = f"A data root of parts needs `normal=DIR`; got {listed(parts)}."
        raise DataError(msg)
    return parts


def _refuse_split(root: Path) -> None:
    """Refuse a folder that brings its own split: `test` would pass for a category beside `train`.

    Raises:
        DataError: If good pictures are in a folder of `train`.
    """
    for train in folders_in(root):
        good = _normal_folder(train) if train.name.lower() == "train" else None
        if good is None:
            continue
        fitting = {("train", GOOD): "mvtec", ("train", "ok"): "btad"}.get((train.name, good.name))
        data = f"{root.resolve().name} MODEL --data-root {root}"
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


def _normal_folder(folder: Path) -> Path | None:
    for path in folders_in(folder):
        if path.name.lower() in _NORMAL_NAMES:
            return path
    return None


Abnormal = tuple[Path, str, tuple[Path, ...]]


def _kinds(folder: Path, normal: Path) -> list[Abnormal]:
    kinds = [f for f in folders_in(folder) if f != normal and f.name.lower() not in _MASK_NAMES]
    masks = next((f for f in folders_in(folder) if f.name.lower() in _MASK_NAMES), None)
    for kind in kinds:
        if kind.name.lower().endswith(_MASK_NAMES):
            msg = (
                f"`{kind}` seems to hold masks, not defective parts. Masks go into "
                f"`{folder / 'masks' / '<kind of defect>'}`."
            )
            raise DataError(msg)
    found = [one for kind in kinds for one in _abnormal(kind, masks)]
    if masks is not None and found and not any(own for _, _, own in found):
        for home in (masks, *folders_in(masks)):
            check_masks_fit(home, (path.stem for path, _, _ in found))
    return found


def _abnormal(folder: Path | None, masks: Path | None) -> list[Abnormal]:
    """Defective pictures with their kind and masks.

    The masks' folder mirrors the pictures' folders, with the kind's name in it or without.
    """
    if folder is None:
        return []
    found: list[Abnormal] = []
    by_stem = functools.cache(masks_by_stem)  # a folder is listed once for all its pictures
    for path in pictures_below(folder):
        inside = path.parent.relative_to(folder)
        mask = None
        if masks is not None:
            for home in (masks / folder.name / inside, masks / inside):
                mask = mask or by_stem(home).get(path.stem)
        kind = inside.parts[0] if inside.parts else folder.name
        found.append((path, kind, () if mask is None else (mask,)))
    return found


DATASET = DatasetSpec(
    name="folder",
    summary="a folder of your own pictures: good ones, optionally defective ones and masks",
    tree=TREE,
    source="your own pictures",
    licence="yours",
    categories=categories,
    samples=samples,
    path_as_category=True,
)
