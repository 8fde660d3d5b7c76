"""One file to one mask: which pixels of a picture were drawn as defective."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad.runtime.errors import PictureError
from ad.runtime.pictures.levels import Depth, check_upper, deep_values, depth_of
from ad.runtime.pictures.opening import Stance, WidthHeight, opened, stance_of, turn
from ad.runtime.pictures.reading import Sides, height_and_width, stance_in

_MAX_RATIO_ERROR = 0.02
_LEAST_CONTRAST, _MOST_BETWEEN = 128, 0.05  # of a drawn mask: grey levels; share of the pixels


class MaskFacts(NamedTuple):
    """What a mask's pixels say of it, whatever picture it belongs to."""

    share: float
    """Share of them that are defective as `read_mask` takes it, in [0, 1]."""
    two_valued: bool
    """Whether there are at most two values among them, as in what was drawn as a mask, or nearly
    all are close to one of two that are far apart: soft edges and JPEG leave a few in between."""


class Look(NamedTuple):
    """Whether a picture looks as if it were a mask, by its pixels alone."""

    drawn: bool
    """Whether it has two values and, unless there is nothing in between, is mostly black: hardly
    any photograph is so."""
    blank: bool
    """Whether it has one value alone, as the mask of a good part has; this is drawn, too."""


def read_mask(path: Path, picture: Path, size: Sides) -> NDArray[np.bool_]:
    """Read the mask of a picture at the evaluation resolution.

    Non-zero is defective (above half in a JPEG, whose zeros are not exact), and so is what is not
    black in a palette that has black; then nearest neighbour down to ``size``. Scores are compared
    at this resolution. A defect so thin that all of it falls between the cells keeps the cells
    that it touches. Where the colours are the same everywhere and the alpha channel is not, the
    alpha channel is the mask; otherwise it counts for nothing.

    A mask is turned as its own EXIF orientation says. Without one, it is taken as drawn on the
    upright picture, and, if its shape shows that it was drawn on the pixels as they are stored, it
    is turned as the picture is.

    Args:
        path: The mask.
        picture: The picture it belongs to; a mask of another shape is an error.
        size: Of the result.

    Returns:
        ``[H, W]``, True where defective.

    Raises:
        PictureError: If the mask cannot be read, does not fit the picture, or shows one thing by
            its colours and another by its alpha channel.
    """
    defective = _fitting_mask(path, picture)[0].defective
    image = Image.fromarray(defective.astype(np.uint8))
    height, width = height_and_width(size)
    small = np.asarray(image.resize((width, height), Image.Resampling.NEAREST)) > 0
    if not small.any():
        y, x = np.nonzero(defective)
        small[y * height // image.height, x * width // image.width] = True
    return small


def mask_on_picture(path: Path, picture: Path) -> tuple[NDArray[np.bool_], WidthHeight]:
    """Which pixels of a picture's mask are defective, in the mask's own pixels.

    Args:
        path: The mask, taken as by `read_mask`.
        picture: The picture it belongs to.

    Returns:
        ``[H, W]`` over the whole picture, and the picture's width and height.

    Raises:
        PictureError: As `read_mask` does.
    """
    mask, size = _fitting_mask(path, picture)
    return mask.defective, size


def read_values(noun: str, path: Path) -> NDArray[Any]:
    """Read the values of what was drawn as a mask and belongs to no picture of its own, upright.

    Args:
        noun: What it is, for an error.
        path: The file.

    Returns:
        ``[H, W]``, whole numbers.

    Raises:
        PictureError: If it cannot be read.
    """
    return _decoded_mask(path, noun).values


def read_mask_values(path: Path, picture: Path) -> NDArray[Any]:
    """Read the values of a mask's pixels, at the picture's own size.

    Args:
        path: The mask.
        picture: The picture it belongs to.

    Returns:
        ``[H, W]``, whole numbers, 0 where there is no defect.

    Raises:
        PictureError: If the mask cannot be read or is of another size than the picture.
    """
    (values, *_), size = _fitting_mask(path, picture)
    if values.shape != size[::-1]:
        msg = (
            f"The mask `{path}` is {values.shape[1]} x {values.shape[0]} pixels and its picture "
            f"`{picture}` {size[0]} x {size[1]}: they must be of one size where the data say how "
            "many pixels of a defect have to be found."
        )
        raise PictureError(msg)
    return values


def shows_defect(mask: Path) -> bool:
    """Whether any pixel of a mask is defective, as `read_mask` takes it.

    Raises:
        PictureError: If the mask cannot be read.
    """
    return bool(_decoded_mask(mask).defective.any())


def mask_facts(path: Path) -> MaskFacts:
    """How much of a mask is defective, and whether it looks like a drawn mask or like a photograph.

    Raises:
        PictureError: If the mask cannot be read.
    """
    mask = _decoded_mask(path)
    return MaskFacts(float(mask.defective.mean()), _two_valued(mask.values))


def look_of(path: Path) -> Look:
    """How a picture looks if it is taken for a mask.

    Raises:
        PictureError: If it cannot be read.
    """
    mask = _decoded_mask(path)
    values, low, high = mask.values, mask.values.min(), mask.values.max()
    drawn = bool(((values == low) | (values == high)).all())
    drawn = drawn or (_two_valued(values) and float(mask.defective.mean()) < 0.5)
    return Look(drawn, bool(low == high))


def _two_valued(values: NDArray[Any]) -> bool:
    some = values[:: max(1, values.shape[0] // 64), :: max(1, values.shape[1] // 64)]
    for part in (some, values):  # a photograph is known by some of its pixels
        if len(np.unique(part)) <= 2:
            continue
        grey = part.astype(np.float64)
        low, high = float(grey.min()), float(grey.max())
        between = np.minimum(grey - low, high - grey) > (high - low) / 4
        # Of the some, many more may be between by chance.
        allowed = _MOST_BETWEEN if part is values else 4 * _MOST_BETWEEN
        if high - low < _LEAST_CONTRAST or between.mean() > allowed:
            return False
    return True


class Header(NamedTuple):
    """What the header of a picture says of it."""

    size: WidthHeight
    """Of the upright picture; a PNG that tells behind its pixels how it is turned is taken as it is
    stored."""
    colours: bool | None
    """Whether it is saved in colours, which may be greys; None for a palette, which may be, too."""


def check_headers(path: Path, masks: Sequence[Path]) -> Header:
    """Check that a picture and its masks can be opened and fit, mostly without decoding them.

    Returns:
        What the picture's header says.

    Raises:
        PictureError: If one is missing, empty or no picture, or a mask has another shape.
    """
    with opened("picture", path) as image:
        stance, mode = stance_of(image, decode=False), image.mode
    for mask in masks:
        of_mask = stance_in("mask", mask, decode=False)
        if _turn_of_mask(of_mask, stance) is None:
            # A PNG may tell its orientation where only decoding finds it.
            _check_fits(mask, stance_in("mask", mask), path, stance_in("picture", path))
    grey = mode in ("1", "L", "LA", "La", "F") or mode.startswith("I")
    return Header(stance.upright, None if mode in ("P", "PA") else not grey)


class _Mask(NamedTuple):
    values: NDArray[Any]
    """``[H, W]``, turned by the mask's own tag."""
    noisy: bool
    """Whether zeros are not exact."""
    stance: Stance

    @property
    def defective(self) -> NDArray[np.bool_]:
        return np.asarray(self.values > (127 if self.noisy else 0))


def _decoded_mask(path: Path, noun: str = "mask") -> _Mask:
    with opened(noun, path) as mask:
        noisy = mask.format in ("JPEG", "MPO")
        noisy |= mask.info.get("compression") in ("jpeg", "tiff_jpeg")
        depth = depth_of(mask, path)  # which is forgotten once it is decoded
        stance = stance_of(mask)
        return _Mask(turn(_mask_values(mask, path, depth), stance.pending), noisy, stance)


def _fitting_mask(path: Path, picture: Path) -> tuple[_Mask, WidthHeight]:
    """A mask as it lies on its picture, and the picture's size."""
    seen = stance_in("picture", picture)
    mask = _decoded_mask(path)
    needed = _check_fits(path, mask.stance, picture, seen)
    return mask._replace(values=turn(mask.values, needed)), seen.upright


def _turn_of_mask(mask: Stance, picture: Stance) -> int | None:
    """EXIF's number for how a mask is turned beyond its own tag; None if it does not fit."""
    if mask.upright == picture.upright:
        return 1
    drawn_as_stored = mask.orientation == 1 and same_shape(mask.stored, picture.stored)
    if drawn_as_stored and mask.stored == picture.stored:
        return picture.orientation
    if same_shape(mask.upright, picture.upright):
        return 1
    return picture.orientation if drawn_as_stored else None


def _check_fits(path: Path, mask: Stance, picture_path: Path, picture: Stance) -> int:
    needed = _turn_of_mask(mask, picture)
    if needed is not None:
        return needed
    size, other = mask.upright, picture.upright
    turned = " when turned as its EXIF orientation says" if mask.orientation > 1 else ""
    msg = (
        f"The mask `{path}` is {size[0]} x {size[1]} pixels{turned} and its picture "
        f"`{picture_path}` {other[0]} x {other[1]}: they must have the same shape."
    )
    raise PictureError(msg)


def same_shape(a: WidthHeight, b: WidthHeight) -> bool:
    """Whether two sizes have the same proportions, to a fiftieth."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= _MAX_RATIO_ERROR * a[0] * b[1]


def _mask_values(mask: Image.Image, path: Path, depth: Depth | None) -> NDArray[Any]:
    """Values of an open mask's pixels ``[H, W]``, as Pillow decodes them."""
    alpha = None
    if mask.mode in ("CMYK", "YCbCr"):  # whose channels are no brightness
        mask = mask.convert("RGB")
    elif mask.mode in ("La", "RGBa"):  # whose colours are multiplied by alpha
        mask = mask.convert({"La": "LA", "RGBa": "RGBA"}[mask.mode])
    if mask.has_transparency_data and not mask.mode.startswith("I"):
        alpha = np.asarray(mask.convert("RGBA"))[..., 3]
    values = _first_channel(mask)
    if depth is not None and depth.raw is not None:
        colours, whole = deep_values(mask, path, depth)
        if not whole:
            check_upper(int(colours.max()), path, None)
        values = colours.max(axis=2)
    if alpha is None or alpha.min() == alpha.max():
        return values
    constant = values.min() == values.max()
    if constant and alpha.min() == 0:
        return alpha
    if constant or ((values > 0) != (alpha > 0)).any():
        msg = (
            f"The mask `{path}` shows one thing by its colours and another by its transparency, so "
            "it is not known what is defective. Save it without an alpha channel: black, and white "
            "where it is defective."
        )
        raise PictureError(msg)
    return values


def _first_channel(mask: Image.Image) -> NDArray[Any]:
    # A palette's numbers are the classes, unless one of its colours in use is black.
    pixels = np.asarray(mask)
    if mask.mode in ("P", "PA"):
        brightest = np.asarray(mask.convert("RGBA"))[..., :3].max(axis=2)
        numbers = pixels if mask.mode == "P" else pixels[..., 0]
        return brightest if (brightest == 0).any() else numbers
    if pixels.ndim == 2:
        return pixels
    colours = pixels[..., : 1 if mask.mode == "LA" else 3]
    return np.asarray(colours.max(axis=2))
