"""A detector as `torch.compile` translates it for a machine, its weights frozen into the code."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import final

import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from ad.core.data.batches import to_device
from ad.core.detector import Detector, Prediction
from ad.runtime.framing.size import Size
from ad.runtime.progress import Progress


@final
class CompiledForm:
    """The compiled form of a detector, which is there when this is made.

    One translation serves batches of any size but 1, which the first picture that comes alone has
    made for itself. Scores differ from the detector's own by rounding.

    Args:
        detector: Fitted, in eval mode, on the device.
        size: Of its pictures.
        device: Where it is.
        progress: Where to tell how long it took.

    Raises:
        Exception: Whatever torch's compiler raises, as where there is no C++ compiler.
    """

    def __init__(
        self, detector: Detector, size: Size, device: torch.device, progress: Progress
    ) -> None:
        began = time.perf_counter()
        self.detector = detector
        self._failed = False
        self._compiled: Callable[[Tensor], Prediction]
        self._compiled = torch.compile(detector, options={"freezing": True})
        with torch.inference_mode():  # a tensor of inference is of another kind to the compiler
            images = to_device(torch.zeros(2, *size, 3, dtype=torch.uint8), device)
            torch._dynamo.maybe_mark_dynamic(images, 0)
            self._translated(images)
        progress.tell(f"compiled in {time.perf_counter() - began:.0f} s")

    def __call__(self, images: Tensor) -> Prediction:
        """Score a batch as the detector does; see `Detector.forward`.

        What cannot be translated any more is computed by the detector itself, with a warning.
        """
        if self._failed:
            return self._own(images)
        try:
            return self._translated(images)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            warnings.warn(
                f"The detector cannot be compiled for {len(images)} pictures at once "
                f"({reason(error)}): it runs as it is from here on, and its scores differ by "
                "rounding from those before.",
                stacklevel=2,
            )
            self._failed = True
            return self._own(images)

    def _own(self, images: Tensor) -> Prediction:
        return self.detector(images)  # type: ignore[no-any-return]  # untyped in torch

    def _translated(self, images: Tensor) -> Prediction:
        # Else torch goes on without a word when it has translated too many variants.
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            return self._compiled(images)


def reason(error: BaseException) -> str:
    """Why torch's compiler failed, in a line: it appends how to look into itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
