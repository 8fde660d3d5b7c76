"""The interface of everything that scores pictures.

A detector is one `torch.nn.Module`: pictures in, scores and anomaly maps out. It knows
nothing of files, data sets or thresholds.
"""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ad.core.errors import NotFittedError

Shape = tuple[int | str, ...]
"""Sizes of a learned buffer: numbers, and letters for those that only fitting knows."""

_TRAINED = "trained"
_DECLARED = "_declared_buffers"


class Declared(NamedTuple):
    """What a saved learned buffer must be; see `learned_buffer`."""

    shape: Shape
    """Its sizes."""
    below: int | None
    """What its values are below; None for any."""


class Prediction(NamedTuple):
    """What a detector says of one batch; higher is more anomalous, unbounded."""

    score: Tensor
    """``[B]``, float32: one score per image."""
    map: Tensor | None
    """``[B, H, W]``, float32: one score per input pixel; None if it cannot localise."""


def wrong_prediction(found: object, images: Tensor, *, localises: bool) -> str:
    """Say what is wrong with the form of what `Detector.forward` gave.

    Args:
        found: What it gave.
        images: What it was given, ``[B, 3, H, W]``.
        localises: What the detector's `Detector.localises` says.

    Returns:
        A part of a sentence; empty if nothing is wrong.
    """
    if not isinstance(found, Prediction):
        return (
            "`forward` must return `Prediction(score=..., map=...)` of `ad.core`; "
            f"it returns a `{type(found).__name__}`"
        )
    b, _, h, w = images.shape
    given = "None" if found.map is None else "a tensor"
    if found.score.shape != (b,):
        return f"`score` must hold one value per image, {[b]}; got {list(found.score.shape)}"
    if (found.map is not None) != localises:
        return (
            f"`localises` must say if there are maps: it is {localises} and `map` is {given}; "
            "a detector without maps has `localises = False` in its class"
        )
    if found.map is not None and found.map.shape != (b, h, w):
        return (
            f"`map` must hold one value per input pixel, {[b, h, w]}; got {list(found.map.shape)}"
        )
    return ""


class Detector(nn.Module, abc.ABC):
    """Scores pictures; one final subclass per model.

    What every subclass promises:

    * `forward` takes ``[B, 3, H, W]`` float32 in [0, 1]; normalisation happens inside, so
      training, prediction and every export agree.
    * An image's result never depends on the others in its batch.
    * Everything that fitting learns is a buffer or a parameter. A buffer whose size is known
      only after fitting starts with `learned_buffer`, and loads whatever size was saved.
    * No gradient, no randomness, and only operations that can be exported.
    """

    localises: ClassVar[bool] = True
    """Whether `Prediction.map` is given."""

    map_jumps: ClassVar[bool] = False
    """Whether a map jumps where an engine's last digits differ, as that of the nearest of several
    codes does where two are equally near: a few of an export's pixels may then differ."""

    outlines: ClassVar[str] = ""
    """What `outline` outlines, in a few words for a person; empty for detectors without one."""

    @abc.abstractmethod
    def forward(self, images: Tensor) -> Prediction:
        """Score a batch.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1], RGB.

        Raises:
            NotFittedError: If the detector has not been fitted.
        """

    def outline(self, images: Tensor) -> Tensor:
        """Say where a test of the detector's own finds something; for those with `outlines`.

        For a test that comes with its limit, such as one of significance. People see it on heat
        maps and in reports, beside what the pixel threshold outlines. It takes no part in scores,
        verdicts and figures, is not exported and may compute on the CPU.

        Args:
            images: As `forward` takes them.

        Returns:
            ``[B, H, W]``, float32: above 0 is inside the outline.
        """
        raise NotImplementedError

    def prepare_export(self) -> tuple[str, ...]:
        """Compute as the exported graph will, where that is another way; for good.

        For what a graph cannot hold, such as an index of another library. An export is compared
        with the detector after this.

        Returns:
            What a user should know of it.
        """
        return ()

    def require_fitted(self) -> None:
        """Check that fitting has filled every learned buffer.

        Raises:
            NotFittedError: If one is still empty.
        """
        for name, buffer in self.named_buffers():
            if buffer.numel() == 0:
                msg = (
                    f"`{type(self).__name__}` has not been fitted: `{name}` is empty. "
                    "Train it (`ad.core.train`) or load a saved one (`ad.core.load`)."
                )
                raise NotFittedError(msg)


def learned_buffer(
    module: nn.Module,
    name: str,
    dtype: torch.dtype = torch.float32,
    *,
    shape: Shape | None = None,
    below: int | None = None,
) -> None:
    """Register an empty buffer that fitting fills and that loads at the size it was saved.

    Args:
        module: The detector, or a part of it, that owns the buffer.
        name: Name of the attribute.
        dtype: Element type in memory and on disk.
        shape: What a saved one must have: a number for a size that is known before fitting, a
            letter for one that is not; a letter is one size in all buffers of ``module``. None
            takes any, which ``forward`` then has to check: a wrong one may broadcast.
        below: Of a buffer of indices: how many there are to index, so that a saved one has values
            from 0 to below that. Needs a ``shape``.
    """
    module.register_buffer(name, torch.empty(0, dtype=dtype))
    if shape is not None:
        module.__dict__.setdefault(_DECLARED, {})[name] = Declared(shape, below)


def declared(module: nn.Module) -> dict[str, Declared]:
    """What a module's own learned buffers must be, of those that declare it."""
    own: dict[str, Declared] = module.__dict__.get(_DECLARED, {})
    return own


def trained_flag(detector: Detector) -> None:
    """Register ``trained``, ``[1]`` once it was: random weights must not pass for learnt ones.

    For a detector that learns by gradient and has no learned buffer beside it;
    `ad.core.trainer.GradientTrainer.prepare` sets it.
    """
    learned_buffer(detector, _TRAINED, shape=(1,))


def mark_trained(detector: Detector) -> None:
    """Set ``trained`` of a detector that has a `trained_flag`; does nothing to others."""
    flag = getattr(detector, _TRAINED, None)
    if isinstance(flag, Tensor):
        setattr(detector, _TRAINED, torch.ones(1, device=flag.device))
