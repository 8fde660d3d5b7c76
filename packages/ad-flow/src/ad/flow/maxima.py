"""What likelihoods are compared to: the largest of the training pictures.

Of no other pictures, so that a score depends on none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ad.core import LearningData, Setup, in_precision


def largest_likelihoods(
    data: LearningData, setup: Setup, likelihoods: Callable[[Sequence[Tensor]], Iterable[Tensor]]
) -> Tensor:
    """Find the largest likelihood of each layer.

    Args:
        data: The training pictures.
        setup: Says how many of them are looked at at once, and where.
        likelihoods: From what a frozen network says of some to a tensor for each layer.

    Returns:
        ``[layers]``, float32.
    """
    with torch.no_grad(), in_precision("fp32", setup.device):
        found = [
            torch.stack([own.max() for own in likelihoods(batch.frozen)])
            for batch in data.batches(setup.batch_size)
        ]
    return torch.stack(found).amax(0)
