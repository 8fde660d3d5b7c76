"""From a detector to a program without Python, of any number of pictures.

In the program: pixels to numbers from 0 to 1, normalisation, network, distances, map, score. Not in
it: decoding, resizing, thresholds.
"""

from __future__ import annotations

import inspect
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from ad.core.detector import Detector
from ad.core.errors import ExportError
from ad.runtime.config import Input
from ad.runtime.framing import Size

_EXAMPLE = 2
"""Pictures to trace with: of one, tracing takes the number for a fixed one."""

RULES = "What `forward` may do and what not is in docs/plugins.md, at `exportable`: see `ad check`."


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A detector as a program."""

    name: str
    """Registry name, for errors."""
    program: torch.export.ExportedProgram
    """One input, `score` and, if it localises, `map`."""
    input: Input
    """What it takes."""
    localises: bool
    """Whether it gives a map."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it gives."""
        return ("score", "map") if self.localises else ("score",)


class _Outputs(nn.Module):
    """A detector whose result is a plain tuple, as formats have it."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        score, map_ = self.detector(images)
        return (score,) if map_ is None else (score, map_)


class _OfPictures(_Outputs):
    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        # `to_device` does the same in place, which no format knows.
        return self.outputs(pictures.permute(0, 3, 1, 2).float() / 255)


class _OfImages(_Outputs):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.outputs(images)


def trace(detector: Detector, name: str, size: Size, input_: Input) -> Traced:
    """Trace a detector with any number of pictures at once, of one size.

    Height and width are fixed: checks of sizes in `forward` are gone from a program, which would
    then take what the weights do not fit.

    Args:
        detector: Fitted, in fp32, on the CPU.
        name: Registry name, for errors.
        size: Of the pictures it sees.
        input_: What the program is to take.

    Returns:
        The program. Its largest batch may be below the one asked for, where `forward` goes another
        way for more pictures.

    Raises:
        ExportError: If tracing cannot follow `forward`, or fixes the number of pictures.
    """
    detector.eval()
    if input_.dtype == "uint8":
        module: nn.Module = _OfPictures(detector)
        example = torch.zeros(_EXAMPLE, *size, 3, dtype=torch.uint8)
    else:
        module, example = _OfImages(detector), torch.zeros(_EXAMPLE, 3, *size)
    most = input_.max_batch
    try:
        program = _program(module, example, most)
    except Exception as error:
        bound = re.search(r"Dim\('batch', max=(\d+)\)", str(error))
        if bound is None:
            raise ExportError(_why(error, name, module, example)) from error
        most = int(bound[1])
        try:
            program = _program(module, example, most)
        except Exception as second:
            raise ExportError(_why(second, name, module, example)) from second
    return Traced(
        name=name,
        program=program,
        input=Input(dtype=input_.dtype, max_batch=min(most, input_.max_batch)),
        localises=detector.localises,
    )


def _program(module: nn.Module, example: Tensor, most: int) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=max(most, _EXAMPLE))
    with torch.no_grad(), quiet():
        # Not by `torch.onnx.export`, which tries other ways where this one fails: they fix the
        # number of pictures, or follow one side of an `if` on it, without an error.
        return torch.export.export(
            module.eval(), (example,), dynamic_shapes=({0: batch},), strict=False
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to themselves what exporters tell their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _why(error: Exception, name: str, module: nn.Module, example: Tensor) -> str:
    """What in a detector cannot be traced, for the one who wrote it."""
    if "Constraints violated" in str(error):
        where = _fixed_at(module, example)
        return (
            f"`{name}` cannot be exported: its `forward` fixes the number of pictures{where}, so "
            "that the file would take no other. A plain number comes of `len(images)` (take "
            "`images.shape[0]`), of a loop or `chunk` over pictures and of an `if` on their "
            "number. "
            f"{RULES}"
        )
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    where = _raised_at(error, module)
    return (
        f"`{name}` cannot be exported: tracing cannot follow its `forward`{where}: "
        f"{type(error).__name__}: {first[:300]} {RULES}"
    )


def _files_of(module: nn.Module) -> dict[str, str]:
    """The source files of a module's parts but for torch's, by their last names."""
    found = {}
    for part in module.modules():
        try:
            path = inspect.getfile(type(part))
        except (OSError, TypeError):
            continue
        if not type(part).__module__.startswith("torch."):
            found[Path(path).name] = path
    del found[Path(__file__).name]
    return found


def _raised_at(error: Exception, module: nn.Module) -> str:
    files = set(_files_of(module).values())
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in files:
            return f", `{Path(frame.filename).name}` line {frame.lineno}, `{frame.line}`"
    return ""


class _Guards(logging.Handler):
    """Takes note of the lines that ask for a size as a plain number, as torch logs them."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r"\[guard added\] \((\S+\.py):(\d+) in", record.getMessage())
        if found is not None:
            self.lines.append((Path(found[1]).name, found[2]))


def _fixed_at(module: nn.Module, example: Tensor) -> str:
    """Where the number of pictures becomes a plain one; empty if it is in no file of the module."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    guards = _Guards()
    kept = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [guards], False
    logger.setLevel(logging.INFO)
    try:
        batch = torch.export.Dim("batch", min=1)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.export(module, (example,), dynamic_shapes=({0: batch},), strict=False)
    except Exception:  # noqa: S110 (which is known to come)
        pass
    finally:
        logger.handlers, level, logger.propagate = kept
        logger.setLevel(level)
    files = _files_of(module)
    for name, line in guards.lines:
        if name in files:
            source = Path(files[name]).read_text(encoding="utf-8").splitlines()
            return f" in `{name}` line {line}, `{source[int(line) - 1].strip()}`"
    return ""
