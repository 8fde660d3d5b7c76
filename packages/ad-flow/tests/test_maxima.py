import torch

from ad.core import LearningBatch, Setup
from ad.flow.maxima import largest_likelihoods


class Data:
    """Three batches; each has the largest value of one layer."""

    def batches(self, size):
        for values in ((3.0, -9.0, -7.0), (1.0, -4.0, -6.5), (-2.0, -5.0, -6.0)):
            images = torch.zeros(size, 3, 1, 1)
            frozen = tuple(torch.tensor([value - 1, value]) for value in values)
            yield LearningBatch(images=images, frozen=frozen, indices=(0, 1), epoch=0, seed=0)


def test_each_layers_largest_value_counts_whatever_batch_it_is_in():
    setup = Setup(img_size=16, normalize=True, batch_size=2, precision="bf16")
    seen = []

    def likelihoods(maps):
        seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return (map_ / 2 for map_ in maps)

    with torch.autocast("cpu", torch.bfloat16):
        found = largest_likelihoods(Data(), setup, likelihoods)
    assert found.tolist() == [1.5, -2.0, -3.0]
    assert seen == [(False, False)] * 3
