"""The focal loss: cross-entropy that counts a pixel the less, the surer the network is of it.

Source: Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, in the
form of DRAEM and DSR: no weights of classes, and probabilities a little away from 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SMOOTH = 1e-5


def focal_loss(probabilities: Tensor, masks: Tensor, gamma: float = 2.0) -> Tensor:
    """The mean over pixels; float32 whatever autocast says.

    Args:
        probabilities: ``[B, 2, H, W]``: of being good and of being defective, which sum to 1.
        masks: ``[B, 1, H, W]``: 1 where defective, 0 elsewhere.
        gamma: How much less sure pixels count; 0 is cross-entropy.

    Returns:
        A scalar, from 0.
    """
    with torch.autocast(probabilities.device.type, enabled=False):
        good, bad = probabilities.float().chunk(2, dim=1)
        right, wrong = torch.where(masks > 0, bad, good), torch.where(masks > 0, good, bad)
        sure = (1 - _SMOOTH) * right + _SMOOTH * wrong + _SMOOTH
        return -((1 - sure) ** gamma * sure.log()).mean()
