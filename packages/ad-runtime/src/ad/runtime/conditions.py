"""Where scores are computed: what a threshold was found in, and what differs from it now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

ENGINES = ("onnxruntime", "openvino", "torch")
"""What can have computed the scores of a threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Where the scores of an exported model were computed."""

    engine: str
    """One of `ENGINES`; ``torch`` if the threshold is that of the run it was exported from."""
    version: str
    """Of the engine."""
    device: str
    """Kind of device: ``cpu``, ``cuda``, ``gpu``."""
    threads: int
    """Threads of the CPU; they change the last digits of a score."""
    precision: str
    """Such as ``fp32``."""
    tiles: tuple[int, int] | None = None
    """The fewest and the most tiles of a picture; None if pictures were not cut."""

    def __str__(self) -> str:
        """For a person: ``onnxruntime 1.32.0 fp32 cpu``."""
        return f"{self.engine} {self.version} {self.precision} {self.device}"

    def to_json(self) -> dict[str, Any]:
        """As it is saved with a model."""
        return {**asdict(self), "tiles": None if self.tiles is None else list(self.tiles)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Conditions:
        """Read what `to_json` wrote, if nothing is `wrong` with it."""
        tiles = values["tiles"]
        return cls(**{**values, "tiles": None if tiles is None else tuple(tiles)})

    @classmethod
    def wrong(cls, values: Mapping[str, Any]) -> str | None:
        """Why something cannot be their JSON; None if it can."""
        names = ("engine", "version", "device", "threads", "precision", "tiles")
        if set(values) != set(names):
            return f"it must have {', '.join(names)}"
        texts = [values[name] for name in ("engine", "version", "device", "precision")]
        if not all(isinstance(text, str) for text in texts) or values["engine"] not in ENGINES:
            return f"engine must be one of {', '.join(ENGINES)}; version, device, precision texts"
        tiles = values["tiles"]
        counts = [values["threads"], *(tiles if isinstance(tiles, list) else ())]
        if not all(type(count) is int and count >= 1 for count in counts):
            return "threads and tiles must be whole numbers from 1"
        if tiles is not None and (not isinstance(tiles, list) or len(tiles) != 2):
            return "tiles must be the fewest and the most, or null"
        return None

    def other(self, then: Conditions) -> str | None:
        """Say how these differ from those of a threshold, as far as it moves scores.

        Args:
            then: Those in which the threshold was found.

        Returns:
            ``set in fp32 by torch on `cpu`; scores are now ...``; None if nothing differs.
        """
        before, now = [then.precision, f"by {then.engine}"], [self.precision, f"by {self.engine}"]
        before.append(f"on `{then.device}`")
        now.append(f"on `{self.device}`")
        # A GPU computes the same whatever their number.
        if then.device == self.device == "cpu" and then.threads != self.threads:
            before.append(f"with {threads(then.threads)}")
            now.append(f"with {threads(self.threads)}")
        return None if before == now else in_other_words(before, now)


def in_other_words(then: Sequence[str], now: Sequence[str]) -> str:
    """What follows if a threshold was found in other conditions than those of now.

    Args:
        then: What they were, in words.
        now: What they are.
    """
    return (
        f"was set in {' '.join(then)}; scores are now computed in {' '.join(now)} and differ a "
        "little, so that pictures near the threshold may get another verdict"
    )


def threads(number: int) -> str:
    """So many threads, in words."""
    return "1 thread" if number == 1 else f"{number} threads"


def other_tiles(name: str, count: int, found_on: tuple[int, int] | None, typed: str) -> str | None:
    """Say so if a picture has another number of tiles than those that a threshold is from.

    Args:
        name: Of the picture, as a sentence begins with it.
        count: Of its tiles.
        found_on: The fewest and the most tiles of those pictures; None if it is not known.
        typed: What to calibrate, as a shell takes it.
    """
    if found_on is None or found_on[0] <= count <= found_on[1]:
        return None
    fewest, most = found_on
    return (
        f"{name} has {count} tiles, and the threshold was found on pictures of "
        f"{most if fewest == most else f'{fewest} to {most}'}: the largest score of more tiles "
        "is larger, of fewer smaller, so that the promise of false alarms does not hold. Set "
        f"the threshold on pictures of this size: ad calibrate {typed} --normals DIR"
    )
