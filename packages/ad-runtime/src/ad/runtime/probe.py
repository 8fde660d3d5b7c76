"""A picture whose score an exported model carries, so that another machine can compare its own."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ad.runtime.errors import DataError, ModelFileError, calibrate_command
from ad.runtime.framing.size import Size
from ad.runtime.runtime import Runtime

_APART = 0.01
"""Share of a score by which two machines differ that do not compute the same.

Rounding in fp32 moves it by some 1 in 100,000, an engine that takes bf16 by itself by hundredths.
"""


def noise(size: Size, count: int = 1) -> NDArray[np.uint8]:
    """Pictures of noise, ``[count, h, w, 3]``, the same on all machines and in all versions."""
    content = hashlib.shake_256(b"ad").digest(count * size.height * size.width * 3)
    # Of a bytearray, since torch wants to be able to write.
    return np.frombuffer(bytearray(content), np.uint8).reshape(count, *size, 3)


def probe_score(runtime: Runtime) -> float | None:
    """What one picture of noise scores; None if that is no finite number."""
    try:
        return float(runtime.score(noise(runtime.config.framing.size))[0][0])
    except DataError:
        return None


def compared(runtime: Runtime, parity: Mapping[str, Any] | None) -> str:
    """Compare the score of a picture of noise with that where the model was exported.

    Args:
        runtime: The exported model at work.
        parity: Content of its ``parity.json``; None without one.

    Returns:
        Both scores, for a person, or why there is nothing to compare with.

    Raises:
        ModelFileError: If they differ, of a model in fp32, by more than a hundredth.
    """
    known = None if parity is None else parity.get("noise_score")
    here = probe_score(runtime)
    if here is None or not isinstance(known, int | float):
        return "its scores are not compared: it holds no score of a picture of noise"
    said = f"a picture of noise scores {here:.6g} here, and {known:.6g} where it was exported"
    if runtime.config.precision == "fp32" and abs(here - known) > _APART * abs(known):
        msg = (
            f"{said[0].upper()}{said[1:]}: {runtime.engine.described} does not compute what it did "
            "there, and the threshold does not hold. Take another engine or release of it. A "
            "threshold that is set with this one holds for it, and this check goes on to fail: "
            f"{calibrate_command()} {shlex.quote(str(runtime.package.path))} --normals DIR"
        )
        raise ModelFileError(msg)
    return said
