"""What every engine promises, and what is checked of a graph whatever runs it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from ad.runtime.conditions import Conditions
from ad.runtime.config import ExportConfig
from ad.runtime.errors import DataError, ModelFileError, SettingError

Shape = tuple[int | None, ...] | None
"""Of a graph's input or output; None where a side, or all of them, is free."""


class Port(NamedTuple):
    """An input or output of a graph."""

    name: str
    kind: str
    """Type of its numbers, as NumPy calls it."""
    shape: Shape


class Engine(ABC):
    """A graph that is open for work; may be used by several threads at once.

    Args:
        model: The graph's file.
        config: What it must be.
        device: Kind of device, and its number if there are several.
        threads: Of the CPU, for one batch.
    """

    name: str
    """As a user asks for it."""
    version: str
    """Of the engine's package."""

    def __init__(self, model: Path, config: ExportConfig, *, device: str, threads: int) -> None:
        self.model = model
        self.config = config
        self.device = device
        self.threads = threads

    @property
    def conditions(self) -> Conditions:
        """Where scores are computed."""
        return Conditions(
            engine=self.name,
            version=self.version,
            device=self.device.partition(":")[0],
            threads=self.threads,
            precision=self.config.precision,
        )

    @property
    def described(self) -> str:
        """Such as ``onnxruntime 1.32.0 fp32 cpu``."""
        return str(self.conditions)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What can move scores, as the engine itself says it: read back, not as asked for."""

    @abstractmethod
    def _infer(self, batch: NDArray[Any]) -> Sequence[NDArray[Any]]:
        """The graph's outputs, in the order of `_outputs`."""

    @final
    def run(
        self, batch: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Score a batch of pictures that have the model's size.

        Args:
            batch: ``[B, h, w, 3]``, uint8, RGB; ``B`` may be 0, and more than the graph takes at
                once, which is then run several times.

        Returns:
            Raw scores ``[B]``, higher is worse, and maps ``[B, h, w]``; None for maps if the model
            has none.

        Raises:
            SettingError: If the batch is of another type, shape or size.
            DataError: If a score or a map is not finite: it would pass as good.
            ModelFileError: If the graph fails, or gives what it did not promise.
        """
        size = self.config.framing.size
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != (*size, 3):
            msg = (
                f"A batch for this model must be uint8 [B, {size.height}, {size.width}, 3]; got "
                f"{batch.dtype} {list(batch.shape)}."
            )
            raise SettingError(msg)
        scores = np.empty(len(batch), dtype=np.float32)
        maps = np.empty(batch.shape[:3], dtype=np.float32) if self.config.localises else None
        most = self.config.input.max_batch
        for start in range(0, len(batch), most):
            some = np.ascontiguousarray(batch[start : start + most])
            found = self._outputs_of(some)
            scores[start : start + most] = found["score"]
            if maps is not None:
                maps[start : start + most] = found["map"]
        _check_finite("score", scores)
        if maps is not None:
            _check_finite("map", maps)
        return scores, maps

    def _outputs_of(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        given: NDArray[Any] = batch
        if self.config.input.dtype == "float32":
            channels_first = batch.transpose(0, 3, 1, 2).astype(np.float32, order="C")
            given = channels_first / np.float32(255)
        try:
            found = self._infer(given)
        except Exception as error:
            msg = f"`{self.model}` cannot be run by {self.described}: {reason_of(error)}"
            raise ModelFileError(msg) from error
        outputs = {}
        for name, values in zip(self._outputs, found, strict=True):
            shape = (len(batch), *self.config.framing.size)[: 1 if name == "score" else 3]
            if values.dtype != np.float32 or values.shape != shape:
                self._refuse(
                    f"its output `{name}` is {values.dtype} {list(values.shape)} for "
                    f"{len(batch)} pictures; float32 {list(shape)} is needed"
                )
            outputs[name] = values
        return outputs

    @property
    def _outputs(self) -> tuple[str, ...]:
        return ("score", "map") if self.config.localises else ("score",)

    def _check_ports(self, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        """Check that a graph takes and gives what its configuration says.

        Raises:
            ModelFileError: If it does not.
        """
        height, width = self.config.framing.size
        wanted = self.config.input
        sides = (height, width, 3) if wanted.dtype == "uint8" else (3, height, width)
        self._check_port("input", inputs, {wanted.name: (wanted.dtype, (None, *sides))})
        shapes = {"score": (None,), "map": (None, height, width)}
        of_outputs = {name: ("float32", shapes[name]) for name in self._outputs}
        self._check_port("output", outputs, of_outputs)

    def _check_port(
        self, what: str, ports: Sequence[Port], wanted: Mapping[str, tuple[str, Shape]]
    ) -> None:
        if sorted(port.name for port in ports) != sorted(wanted):
            names = ", ".join(f"`{port.name}`" for port in ports) or "none"
            self._refuse(f"its {what}s are {names}; {', '.join(map(repr, wanted))} are needed")
        for port in ports:
            kind, shape = wanted[port.name]
            assert shape is not None
            fits = port.kind == kind
            if port.shape is not None:
                fits &= len(port.shape) == len(shape) and port.shape[0] is None
                # A free side is known once the graph runs, where it is checked again.
                sides = zip(port.shape[1:], shape[1:], strict=False)
                fits &= all(side in (None, need) for side, need in sides)
            if not fits:
                self._refuse(
                    f"its {what} `{port.name}` is {port.kind} {_words(port.shape)}; {kind} "
                    f"{_words(shape)} is needed"
                )

    def _refuse(self, why: str) -> None:
        msg = (
            f"`{self.model}` is not the graph that its configuration speaks of: {why}. It was "
            "changed, or made by something else than `ad export`: export it again."
        )
        raise ModelFileError(msg)

    def _unopened(self, error: Exception) -> ModelFileError:
        msg = (
            f"{self.name} {self.version} cannot open `{self.model}`: {reason_of(error)} Update "
            f"{self.name}, or export again."
        )
        return ModelFileError(msg)


def number_of(device: str, kind: str, engine: str) -> int | None:
    """The number of a device of a kind; None for the CPU.

    Args:
        device: As a user gave it: ``cpu``, ``cuda``, ``cuda:1``.
        kind: Of accelerators that the engine knows.
        engine: For the error.

    Raises:
        SettingError: If it is neither the CPU nor of the kind.
    """
    if device == "cpu":
        return None
    found = re.fullmatch(rf"{kind}(?::(\d{{1,3}}))?", device)
    if found is None:
        msg = f"`device` must be `cpu`, `{kind}` or `{kind}:N` for {engine}; got {device!r}."
        raise SettingError(msg)
    return int(found[1] or 0)


def reason_of(error: Exception) -> str:
    """What an engine says, without where in its source it says it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    return text if text.endswith(".") else f"{text}."


def _words(shape: Shape) -> str:
    if shape is None:
        return "of any shape"
    return f"[{', '.join('free' if side is None else str(side) for side in shape)}]"


def _check_finite(name: str, values: NDArray[np.float32]) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        wrong = np.argwhere(~finite)[0]
        msg = (
            f"The {name} of picture {wrong[0]} of the batch is {values[tuple(wrong)]}, which is no "
            "number to judge by: it would pass as good. The model is broken, or was made for "
            "other pictures: compare its `parity.json`, and export again."
        )
        raise DataError(msg)
