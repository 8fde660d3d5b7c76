"""What tests of every model here learn from: few small pictures, and batches of them."""

import torch

from ad.core import LearningBatch, PictureSet, to_device
from ad.core.testing import make_picture


def pictures(size, count=8, *, start=0):
    return PictureSet([make_picture(start + i, size=size)[0] for i in range(count)], size)


def images(size, count=4, *, start=0):
    (batch,) = pictures(size, count, start=start).batches(count)
    return to_device(batch.pictures, torch.device("cpu"))


def batch_of(images, step=0, seed=0):
    indices = tuple(range(len(images)))
    return LearningBatch(images=images, frozen=(), indices=indices, epoch=0, seed=seed, step=step)
