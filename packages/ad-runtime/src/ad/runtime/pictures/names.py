"""What people mean by the names of folders and files: good parts, kinds of defect, masks, splits.

Names are read word by word: ``GoodTest``, ``test_good`` and ``good-test`` are the same. A name
that only sounds like one of these is doubtful, and the layouts refuse it: a folder of good parts
that is taken for a kind of defect turns every figure round.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Literal, NamedTuple

Split = Literal["train", "validation", "test"]


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


_GOOD = _words("good goods normal normals ok okay")
_SOUNDS_GOOD = _words(
    "acceptable accepted clean conform conforming correct defectless faultless flawless free",
    "golden gut gute guten gutes healthy intact io negative negatives nominal pass passed perfect",
    "positive positives reference undamaged",
    "bon bonne bonnes bons buona buoni buono buenas bueno buenos conforme conformes fehlerfrei",
    "fehlerfreie sain sains",
)
_DEFECTIVE = _words(
    "abnormal abnormals anomalies anomalous anomaly anormal bad broken damaged defect defective",
    "defects fail failed faults faulty ko ng nio nok reject rejected rejects scrap ungood",
)
_NEGATION = _words("no non not without")
_MASKS = _words(
    "annotation annotations gt gts groundtruth groundtruths mask maske masken masks masque masques",
    "segmentation segmentations truth truths",
)
_OF_MASKS = _words("binary class classes human instance instances machine object objects")
_LABELS = _words("label labels labelmap labelmaps seg segs")
_SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "calibration"), "validation"),
    **dict.fromkeys(("test", "tests", "testing", "testset", "eval", "evaluation"), "test"),
}
_FILLING = _words(
    "all and data dataset folder image images img imgs item items only part parts photo photos",
    "pic pics picture pictures pixel product products sample samples set sets the",
)

LEFT_OUT_FOLDERS = _words(
    "@eadir @recently-snapshot #recycle #snapshot @recycle $recycle.bin __macosx __pycache__",
    "_thumbnails _thumbs anomaly_map anomaly_maps heat_maps heatmap heatmaps lost+found overlays",
    "thumb thumbnail thumbnails thumbs",
) | {"system volume information"}
"""Folders, in small letters, that systems, viewers and detectors make beside pictures."""


class Meaning(NamedTuple):
    """What the name of a folder says of the pictures in it."""

    role: Literal["good", "defective", "masks", "split", "doubtful", "other"]
    """``other`` is any name that says nothing, such as that of a kind of defect."""
    split: Split | None = None
    """Where the name says that, too."""


def words_of(name: str) -> list[str]:
    """Words of a name in small letters: at signs, at capitals, and numbers by themselves."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+", name)]


def meaning_of(name: str) -> Meaning:
    """What the name of a folder means; see `Meaning`."""
    words = words_of(name)
    said = {word for word in words if not word.isdigit()} - _FILLING
    splits = {_SPLITS[word] for word in said if word in _SPLITS}
    split = splits.pop() if len(splits) == 1 else None
    rest = said - {*_SPLITS}
    if _are_masks(rest, words):
        return Meaning("masks", split)
    if splits:
        return Meaning("doubtful")
    if not rest:
        return Meaning("split", split) if split else Meaning("other")
    if rest <= _GOOD:
        return Meaning("good", split)
    if rest <= _DEFECTIVE or (rest <= _NEGATION | _GOOD and rest & _GOOD):
        return Meaning("defective", split)
    sounds = rest & (_GOOD | _SOUNDS_GOOD) or any(
        part in word
        for word in rest - _DEFECTIVE
        for part in ("good", "normal", "gutteil", "gutbild")
    )
    sounds = sounds or {"i", "o"} <= rest and "n" not in rest  # German: i. O.
    if sounds or (rest & _NEGATION and rest & _DEFECTIVE):
        return Meaning("doubtful")
    return Meaning("defective" if rest & _DEFECTIVE else "other", split)


def _are_masks(rest: set[str], words: list[str]) -> bool:
    masks = _MASKS | ({"ground"} if "truth" in rest else set())
    if rest & masks:
        return rest <= masks | _OF_MASKS | _LABELS | _GOOD | _DEFECTIVE or words[-1] in masks
    return bool(rest) and rest <= _LABELS


_MARK = r"(?:ground[-_. ]?truth|annotation|segmentation|labels?|mask(?:s|en?)?|masques?|seg|gt)"
_AT_END = re.compile(rf"^(?P<stem>.+?)[-_. ]{_MARK}(?:[-_. ]?\d{{1,2}})?$", re.IGNORECASE)
_AT_START = re.compile(rf"^{_MARK}[-_. ](?P<stem>.+)$", re.IGNORECASE)


def masked_stem(path: Path) -> str | None:
    """Stem of the picture that a file named as a mask belongs to; None for another name.

    ``000_mask.png``, ``000-GT.bmp``, ``mask_000.png`` and ``000.jpg_mask.png`` belong to ``000``.
    """
    found = _AT_END.match(path.stem) or _AT_START.match(path.stem)
    return without_suffix(found["stem"]) if found else None


def without_suffix(stem: str) -> str:
    """A stem without the suffix of a picture in it: ``000.jpg.png`` is a mask of ``000.jpg``."""
    return re.sub(r"\.(?:bmp|jpe?g|png|tiff?|webp)$", "", stem, flags=re.IGNORECASE)


def folded(name: str) -> str:
    """A name without what systems change when they copy it: case, and how accents are written."""
    return unicodedata.normalize("NFC", name).casefold()


_DRAWN = r"(?:thumb(?:nail|s)?|tn|preview|heat[-_. ]?map|overlay|anomaly[-_. ]?map)"
_DRAWN_AT_END = re.compile(rf"^(?P<stem>.+?)[-_. ]{_DRAWN}$", re.IGNORECASE)
_DRAWN_AT_START = re.compile(rf"^{_DRAWN}[-_. ](?P<stem>.+)$", re.IGNORECASE)


def drawn_from_stem(path: Path) -> str | None:
    """Stem of the picture that a file named as a thumbnail or heat map was drawn from.

    None for another name. ``000_thumb.jpg`` and ``heatmap_000.png`` are of ``000``.
    """
    found = _DRAWN_AT_END.match(path.stem) or _DRAWN_AT_START.match(path.stem)
    return found["stem"] if found else None


def is_left_out(name: str) -> bool:
    """Whether a file or folder is hidden, or made by a system, a viewer or a detector."""
    return name.startswith((".", "~$")) or name.lower() in LEFT_OUT_FOLDERS
