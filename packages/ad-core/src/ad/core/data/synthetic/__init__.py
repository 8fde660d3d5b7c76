"""The embedded data set: pictures of parts made by code from a seed, offline.

Four products as an inspection camera would see them, good and defective, with exact masks:

| category | what it shows                      | defects                                     |
|----------|------------------------------------|---------------------------------------------|
| `fabric` | blue and white twill               | torn hole, missing yarn, pulled yarn, stain |
| `metal`  | brushed steel                      | dent, corrosion pits, scratch, stain        |
| `wood`   | a planed board                     | crack, worm holes, scratch, stain           |
| `tray`   | nine printed tags in a tray        | missing, broken and turned part, misprint,  |
|          |                                    | scratch, stain                              |

Light, exposure, position, texture and sensor noise differ from picture to picture. Importing
this package loads neither numpy nor Pillow; its functions do.

| module     | holds                                                  |
|------------|--------------------------------------------------------|
| `products` | what can be shown, and its kinds of defects              |
| `textures` | noise, fibres, blots and curves                        |
| `scene`    | what lies under the camera: a surface, a flaw          |
| `surfaces` | fabric, metal, wood                                    |
| `tray`     | the tray, its tags and their print                     |
| `defects`  | what damage does to a surface; the exact mask          |
| `camera`   | light, lens and sensor                                 |
| `picture`  | all of these put together                              |
| `tree`     | many pictures as files in MVTec AD's layout            |
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ad.core.data.synthetic.products import CATEGORIES as CATEGORIES
from ad.core.data.synthetic.products import DEFECTS as DEFECTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ad.runtime.progress import Advance

SMALLEST = 32
"""Side of the smallest picture that still shows what it should, in pixels."""


def render(
    category: str, index: int, *, seed: int, size: int = 256, defect: str | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw one picture; equal arguments give equal pictures.

    Args:
        category: One of `CATEGORIES`.
        index: Which piece of the product, from 0.
        seed: Another seed, other pieces; from 0.
        size: Side of the picture in pixels, at least `SMALLEST`. The section that is shown stays
            the same.
        defect: One of ``DEFECTS[category]``, or None for a good piece. The picture differs from
            that of the good piece of the same index inside the mask and nowhere else. How
            severe a defect is follows from index and seed.

    Returns:
        The picture ``[size, size, 3]``, RGB, and the mask ``[size, size]``, True where the defect
        is.

    Raises:
        SettingError: If an argument is not allowed.
    """
    _check(category, index=index, seed=seed, size=size, defect=defect)
    from ad.core.data.synthetic.picture import draw

    return draw(category, index, seed=seed, size=size, defect=defect)


def write(
    root: Path,
    *,
    categories: Sequence[str] = CATEGORIES,
    train: int = 60,
    test_good: int = 20,
    test_defective: int = 8,
    seed: int = 0,
    size: int = 256,
    advance: Advance | None = None,
) -> None:
    """Write the data set as a folder in MVTec AD's layout.

    A complete folder of the same settings is left as it is, an interrupted one is completed.

    Args:
        root: Folder to write; made if it is missing.
        categories: Some of `CATEGORIES`.
        train: Good pictures to train on, per category.
        test_good: Good pictures to test on, per category.
        test_defective: Defective pictures to test on, per category and kind of defect.
        seed: See `render`.
        size: See `render`.
        advance: Told the number of pictures that were done since its last call; see `total`.

    Raises:
        SettingError: If an argument is not allowed.
        DataError: If the folder holds a data set of other settings, or something else.
        OutputError: If the folder cannot be written.
    """
    from ad.core.errors import SettingError

    for name, least, value in (
        ("train", 1, train),
        ("test_good", 0, test_good),
        ("test_defective", 0, test_defective),
    ):
        if value < least:
            msg = f"`{name}` must be at least {least}; got {value}."
            raise SettingError(msg)
    if not categories:
        msg = "`categories` must name at least one category; got none."
        raise SettingError(msg)
    for category in categories:
        _check(category, index=0, seed=seed, size=size, defect=None)
    from ad.core.data.synthetic.tree import Settings, write_tree

    settings = Settings(
        categories=tuple(dict.fromkeys(categories)),
        train=train,
        test_good=test_good,
        test_defective=test_defective,
        seed=seed,
        size=size,
    )
    write_tree(Path(root), settings, advance or (lambda count: None))


def total(
    *,
    categories: Sequence[str] = CATEGORIES,
    train: int = 60,
    test_good: int = 20,
    test_defective: int = 8,
) -> int:
    """How many pictures `write` makes with these settings, masks not counted."""
    kinds = (len(DEFECTS[category]) for category in dict.fromkeys(categories))
    return sum(train + test_good + test_defective * n for n in kinds)


def _check(category: str, *, index: int, seed: int, size: int, defect: str | None) -> None:
    from ad.core.errors import SettingError, listed, nearest

    if category not in DEFECTS:
        msg = (
            f"`category` must be one of {listed(CATEGORIES)}; got `{category}`."
            f"{nearest(category, CATEGORIES)}"
        )
        raise SettingError(msg)
    kinds = DEFECTS[category]
    if defect is not None and defect not in kinds:
        msg = (
            f"`defect` of `{category}` must be one of {listed(kinds)}, or None for a good piece; "
            f"got `{defect}`.{nearest(defect, kinds)}"
        )
        raise SettingError(msg)
    for name, value in (("index", index), ("seed", seed)):
        if value < 0:
            msg = f"`{name}` must be 0 or more; got {value}."
            raise SettingError(msg)
    if size < SMALLEST:
        msg = f"`size` must be at least {SMALLEST} pixels; got {size}."
        raise SettingError(msg)
