"""How a picture becomes what a detector sees, and how a map goes back: geometry alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ad.runtime.errors import SettingError
from ad.runtime.framing.fit import FITS, Axis, Fit, Indices, axes, wrong_fit
from ad.runtime.framing.lines import Line, between
from ad.runtime.framing.region import Crop, Region, wrong_crop
from ad.runtime.framing.size import Size, size_of, wrong_size
from ad.runtime.framing.tiles import Place, Tiling, wrong_tiling
from ad.runtime.pictures.drawn import same_shape
from ad.runtime.pictures.memory import three_channels
from ad.runtime.pictures.reading import Source, upright_size
from ad.runtime.resize import resize

_LOST_FROM = 4  # pixels of the picture in one that is seen: fewer are nothing to speak of


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How a picture becomes what a detector sees."""

    size: Size
    """Of what it sees."""
    fit: Fit = "stretch"
    """How a picture gets that size."""
    resize: Size | None = None
    """What the picture is stretched to before its middle is cut out, for `fit` ``crop``."""
    crop: Crop | None = None
    """What is cut out of a picture before all else; None for nothing."""
    region: Region | None = None
    """What counts of a picture; None for all of it."""
    tiling: Tiling | None = None
    """How pictures are cut into tiles of `size`, each seen by itself; None for whole pictures."""

    def of(self, picture: Size) -> Self:
        """How a picture lies in its map: this, but where it is cut, in the joined map.

        Args:
            picture: Its size.
        """
        if self.tiling is None:
            return self
        part = picture if self.crop is None else Size(self.crop.height, self.crop.width)
        return replace(self, size=self.tiling.scaled(part), tiling=None)

    def places(self, picture: Source) -> list[Place]:
        """Where the tiles of a picture lie that show anything that counts."""
        assert self.tiling is not None
        whole = self.of(size_of_picture(picture))
        return self.tiling.places(whole.size, whole.looked_at)

    def tile_counts(self, pictures: Sequence[Source]) -> tuple[int, int] | None:
        """The fewest and the most tiles that one of these has; None if pictures are not cut."""
        if self.tiling is None or not pictures:
            return None
        counts = [len(self.places(picture)) for picture in pictures]
        return min(counts), max(counts)

    def view(self, pixels: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        """A decoded picture as a detector sees it, or as it is cut.

        Args:
            pixels: ``[H, W, 3]``, the whole picture; or ``[H, W, 4]`` as
                `ad.runtime.pictures.reading.glimpse` gives it.
            name: Of the picture, for an error.

        Returns:
            ``[h, w, 3]``, uint8, of `size`, or of its own if it is to be cut.

        Raises:
            PictureError: If the crop does not lie within it, or the region is of another shape.
        """
        whole = Size(*pixels.shape[:2])
        down, across = self.of(whole).axes(whole, name)
        part = pixels[
            down.start : down.start + down.part, across.start : across.start + across.part
        ]
        scaled = self.resized(np.ascontiguousarray(part), (down.scaled, across.scaled))
        rows = scaled if down.all_seen else scaled[down.from_scaled()]
        return rows if across.all_seen else rows[:, across.from_scaled()]

    def resized(self, part: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        """A part of a picture at another size; whoever has a faster way to the same values has it.

        Args:
            part: ``[H, W, 3]``, or ``[H, W, 4]`` as `view` takes it.
            size: Height and width.

        Returns:
            ``[h, w, 3]``.
        """
        return resize(three_channels(part), size)

    @property
    def looked_at(self) -> NDArray[np.bool_] | None:
        """Which pixels of what a detector sees lie in the region, ``[h, w]``; None without one.

        None for tiles, too, in each of which it lies elsewhere.
        """
        return None if self.region is None or self.tiling is not None else _looked_at(self)

    @property
    def stretches(self) -> bool:
        """Whether pictures of any shape may come, and lose it as all of each is stretched."""
        return self._plain and self.tiling is None

    @property
    def all_counts(self) -> bool:
        """Whether all that a detector sees shows what counts; else see `counted`."""
        return self.fit != "pad" and self.region is None

    def counted(self, picture: Source) -> NDArray[np.bool_]:
        """Which pixels of what a detector sees show what counts of a picture, ``[h, w]``.

        Neither those outside the region nor those that go on beyond a picture's edge.
        """
        if self.tiling is not None:
            return self.of(size_of_picture(picture)).counted(picture)
        counted = np.ones(self.size, dtype=bool)
        if self.fit == "pad":
            down, across = self.axes(size_of_picture(picture), "The picture")
            counted = both(down.shows(), across.shows())
        return counted if self.region is None else counted & _looked_at(self)

    def peaks(self, maps: NDArray[np.float32], pictures: Sequence[Source]) -> NDArray[np.float32]:
        """The largest of each map ``[B, h, w]`` where it shows what counts of its picture."""
        if self.all_counts:
            return np.asarray(maps.max(axis=(1, 2)))
        peaks = [map_[self.counted(one)].max() for map_, one in zip(maps, pictures, strict=True)]
        return np.array(peaks, dtype=np.float32)

    def back(self, map_: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        """Bring a map of what a detector sees back to a picture's own pixels.

        Bilinear between the middles of pixels.

        Args:
            map_: ``[h, w]``, of `size`; whatever lies outside the region does not count.
            size: Height and width of the picture.

        Returns:
            ``[H, W]``; NaN where the picture was not seen, or lies outside the region.

        Raises:
            PictureError: If the picture cannot be of that size; see `view`.
        """
        own = self.of(Size(*size))
        down, across = own.lines(Size(*size))
        whole = np.full(size, np.nan, dtype=np.float32)
        whole[down.span, across.span] = own.back_at(map_, size, down, across)
        return whole

    def back_small(
        self, map_: NDArray[np.float32], picture: Size, size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """What `back` gives for people to look at, no finer than they look.

        Args:
            map_: As `back` takes it.
            picture: Its size.
            size: Height and width that would do, of the picture's proportions.

        Returns:
            ``[H, W]`` of that size; of the picture's where pictures are cropped, which is in their
            own pixels, and where a region has no longer their proportions, for the rounding of
            ``size``.
        """
        own = self.of(picture)
        odd = own.region is not None and not same_shape(own.region.size[::-1], size[::-1])
        return own.back(map_, picture if own.crop is not None or odd else size)

    def lines(self, picture: Size) -> tuple[Line, Line]:
        """The rows and the columns of a picture that are seen, and where they lie in its map.

        Args:
            picture: Its size; a framing that cuts it up must be `of` it.

        Raises:
            PictureError: If the picture cannot be of that size; see `view`.
        """
        down, across = self.axes(picture, "The picture")
        return Line.of(down), Line.of(across)

    def back_at(
        self, map_: NDArray[np.float32], size: tuple[int, int], down: Line, across: Line
    ) -> NDArray[np.float32]:
        """What `back` gives at some rows and columns; of a framing that is `of` the picture.

        Args:
            map_: As `back` takes it.
            size: Height and width of the picture.
            down: ``H`` of the rows that are seen; see `lines`.
            across: ``W`` of the columns.

        Returns:
            ``[H, W]``; NaN outside the region.
        """
        if self.region is None or (looked_at := self.looked_at) is None:
            return between(map_, down, across)
        values = between(np.where(looked_at, map_, np.float32(0)), down, across)
        weight = between(looked_at.astype(np.float32), down, across)
        weight[~_stretched(self.region.inside, size, down.at, across.at)] = 0
        # The mean of those neighbours that count.
        return np.divide(values, weight, out=np.full_like(values, np.nan), where=weight > 0)

    def axes(self, whole: Size, name: str) -> tuple[Axis, Axis]:
        """How a picture lies in what is seen, down and across.

        Args:
            whole: Of the picture.
            name: Of the picture, for an error: ``The picture `a.png```.

        Raises:
            PictureError: If the crop does not lie within it, or the region is of another shape.
        """
        if self.region is not None:
            self.region.check_fits(whole, name, exactly=self.crop is not None)
        start, part = (0, 0), whole
        if self.crop is not None:
            self.crop.check_within(whole, name)
            start = (self.crop.y, self.crop.x)
            part = Size(self.crop.height, self.crop.width)
        return axes(self.fit, whole, start, part, self.size, self.resize)

    def at(self, size: tuple[int, int]) -> Self:
        """The same view of pictures, finer or coarser, for people to look at."""
        to = Size(*size)
        bigger = self.resize
        if bigger is not None:
            bigger = Size(
                *(max(n, round(r * n / s)) for r, n, s in zip(bigger, to, self.size, strict=True))
            )
        return replace(self, size=to, resize=bigger, tiling=None)

    def check(self, picture: Path) -> None:
        """Check that a picture can be framed, by its header.

        Raises:
            PictureError: If the crop does not lie within it, or the region is of another shape.
        """
        if self.crop is not None or self.region is not None:
            whole = size_of_picture(picture)
            self.of(whole).axes(whole, f"The picture `{picture}`")

    def check_region(self) -> None:
        """Check that something is left to look at.

        Raises:
            SettingError: If nothing is.
        """
        if self.region is not None and self.tiling is None and not _looked_at(self).any():
            msg = (
                f"`roi`: nothing that is white in it is seen at {self.size}. Paint more of it "
                "white, let more be seen (`--crop`, `--fit`), or raise `--img-size`."
            )
            raise SettingError(msg)

    def notes(self) -> list[str]:
        """What a reader of figures must know of what is not looked at."""
        said = []
        if self.crop is not None:
            said.append(
                f"Of each picture only {self.crop.width} x {self.crop.height} pixels (width x "
                f"height) from x {self.crop.x}, y {self.crop.y} on are looked at (`--crop`): what "
                "lies beside them is not seen, and no figure covers it."
            )
        if self.fit == "crop":
            said.append(
                f"Pictures are resized to {self.resize}, and of that only the middle {self.size} "
                "is looked at (`--fit crop`): the border is not seen, and pixel figures do not "
                "cover it."
            )
        if self.tiling is not None:
            said.append(
                f"Pictures are cut into tiles of {self.tiling.tile}, which overlap by "
                f"{self.tiling.overlap} pixels (`--tile`): a picture's score is the largest of its "
                "tiles', and its map is joined of theirs. The threshold holds for pictures of as "
                "many tiles as those that it was found on."
            )
        if self.region is not None:
            looked_at = self.region.inside if self.tiling is not None else _looked_at(self)
            share = 100 * looked_at.mean()
            said.append(
                f"Only the region of interest, {share:.3g} % of what the model sees, is looked at "
                "(`--roi`): scores are the largest of the map inside it, and thresholds and pixel "
                "figures leave out all else."
            )
        return said

    def lost(self, picture: Path) -> str | None:
        """Say what is too small to be seen, where much of a picture's detail is lost.

        Args:
            picture: One of those that are to be looked at.
        """
        whole = size_of_picture(picture)
        both = self.of(whole).axes(whole, f"The picture `{picture}`")
        ratio = max(axis.part / axis.scaled for axis in both)
        if ratio < _LOST_FROM:
            return None
        pixels = 2 * ratio  # what is smaller has no pixel to itself wherever it lies
        pixels = round(pixels, -1) if pixels >= 20 else round(pixels)
        return (
            f"Pictures are {whole}, such as `{picture}`, and seen at {self.of(whole).size}: what "
            f"is smaller than about {pixels:.0f} pixels is lost; see "
            f"{'`--tile-scale`' if self.tiling is not None else '`--img-size` and `--tile`'}."
        )

    @property
    def _plain(self) -> bool:
        """Whether the whole picture is stretched and all of it counts."""
        return self.fit == "stretch" and self.crop is None and self.region is None

    def to_json(self) -> dict[str, Any]:
        """As it is saved with a model, beside what else is said of it; the region by its hash.

        Its pixels have a file of their own.
        """
        return {
            "img_size": self.size.plain,
            "fit": self.fit,
            "resize": None if self.resize is None else self.resize.plain,
            "crop": None if self.crop is None else list(self.crop),
            "roi": None if self.region is None else self.region.sha256,
            "tiling": None if self.tiling is None else self.tiling.to_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], region: Region | None = None) -> Self:
        """Read what `to_json` wrote, if nothing is `wrong_in` it.

        Args:
            values: As it was saved.
            region: That of the hash.
        """
        return cls(
            size=size_of(values["img_size"]),
            fit=values["fit"],
            resize=None if values["resize"] is None else size_of(values["resize"]),
            crop=None if values["crop"] is None else Crop(*values["crop"]),
            region=region,
            tiling=None if values["tiling"] is None else Tiling.from_json(values["tiling"]),
        )

    @staticmethod
    def wrong_in(values: Mapping[str, Any]) -> set[str]:
        """Names of those entries of `to_json` that are not what they can be."""
        resize, crop = values["resize"], values["crop"]
        wrong = {"img_size"} if wrong_size(values["img_size"]) else set()
        wrong |= {"resize"} if resize is not None and wrong_size(resize) else set()
        wrong |= {"crop"} if crop is not None and wrong_crop(crop) else set()
        wrong |= set() if values["fit"] in FITS else {"fit"}
        if (tiling := values["tiling"]) is not None and not wrong:
            other = wrong_tiling(tiling) or size_of(tiling["tile"]) != size_of(values["img_size"])
            wrong |= {"tiling"} if other or values["fit"] != "stretch" else set()
        if not wrong and wrong_fit(
            values["fit"],
            size_of(values["img_size"]),
            None if resize is None else size_of(resize),
        ):
            wrong = {"resize"}
        return wrong


@functools.lru_cache(maxsize=8)
def _looked_at(framing: Framing) -> NDArray[np.bool_]:
    region = framing.region
    assert region is not None
    down, across = framing.axes(region.size, "The picture")
    rows, columns = down.nearest(down.whole), across.nearest(across.whole)
    seen = region.inside[rows][:, columns] & both(down.shows(), across.shows())
    seen.flags.writeable = False
    return seen


def size_of_picture(picture: Source) -> Size:
    """Height and width of a picture, upright, from its header.

    Raises:
        PictureError: If it is missing, empty or no picture.
    """
    if isinstance(picture, np.ndarray):
        return Size(*picture.shape[:2])
    return Size(*upright_size(picture)[::-1])


def both(rows: NDArray[np.bool_], columns: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a row and a column both count, ``[rows, columns]``."""
    return np.asarray(rows[:, None] & columns)


def _stretched(
    inside: NDArray[np.bool_], size: tuple[int, int], down: Indices, across: Indices
) -> NDArray[np.bool_]:
    """Which of some rows and columns of a picture of a size lie in a region of another one."""
    rows, columns = (
        (at * 2 + 1) * of // (2 * to)
        for at, of, to in zip((down, across), inside.shape, size, strict=True)
    )
    return np.asarray(inside[rows][:, columns])
