"""Whether operations of oneDNN that torch's compiler uses, and that are not public, are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def refusal(names: Sequence[str], trial: Callable[[], bool]) -> str:
    """Why operations cannot be used on this CPU, in words; empty if they can.

    Args:
        names: Of the operations in ``torch.ops.mkldnn``.
        trial: Computes something whose result is known, in fp32 and outside of inference mode, and
            says whether it is right. Whoever asks first may be anywhere: it may draw what it likes,
            and their generator does not notice.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this torch is built without oneDNN"
    if not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return f"torch {torch.__version__} lacks the operations"
    with (
        torch.random.fork_rng(devices=[]),
        torch.inference_mode(mode=False),
        torch.autocast("cpu", enabled=False),
        torch.device("cpu"),
    ):
        try:
            right = trial()
        except (RuntimeError, TypeError) as error:
            return f"oneDNN refuses them here ({str(error).partition(chr(10))[0]})"
    return "" if right else "oneDNN's result of a trial is wrong here"
