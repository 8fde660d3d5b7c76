"""What sizes of pictures a flow can take: it is of maps of one size."""

from __future__ import annotations

from torch import Tensor

from ad.core import Setup, Size
from ad.core.errors import SettingError


def require_multiple(
    setup: Setup, stride: int, model: str, backbone: str, *, least: int | None = None
) -> None:
    """Refuse to build a model for pictures whose maps would not fit.

    Args:
        setup: Says the size.
        stride: Pixels of a cell of the deepest map.
        model: As people call it.
        backbone: Whose map it is.
        least: The smallest side, where one cell is not enough; a multiple of ``stride``.

    Raises:
        SettingError: If a side is not a multiple of ``stride``, or smaller.
    """
    smallest = stride if least is None else least
    if not setup.img_size.divides(stride, smallest):
        msg = (
            f"`img_size` of {model} must be a multiple of {stride}, the pixels of a cell of the "
            f"deepest map of `{backbone}`{'' if least is None else f', from {least}'}; got "
            f"{setup.img_size.typed}. Near it are {setup.img_size.near(stride, smallest)}."
        )
        raise SettingError(msg)


def require_size(images: Tensor, trained_at: Size, model: str) -> tuple[int, int]:
    """Refuse pictures of another size than a model has learnt.

    Args:
        images: ``[B, 3, H, W]``.
        trained_at: The size.
        model: As people call it.

    Returns:
        Height and width.

    Raises:
        SettingError: If they are of another.
    """
    size = (images.shape[2], images.shape[3])
    if size != trained_at:
        msg = (
            f"{model} was trained at {trained_at} pixels and has learnt what is where in pictures "
            f"of that size; got {size[0]} x {size[1]} pixels. Resize the pictures, or train at "
            "their size."
        )
        raise SettingError(msg)
    return size
