"""What tests of flows learn from and look at: few small pictures of noise."""

import torch

from ad.core import LearningBatch


def pictures(count=3, size=(32, 32)):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0))


def batch_of(trainer, images):
    with torch.no_grad():
        frozen = tuple(trainer.frozen(images))
    indices = tuple(range(len(images)))
    return LearningBatch(images=images, frozen=frozen, indices=indices, epoch=0, seed=0)


def check_loss_is_a_mean(trainer, images):
    """Of its pictures': a Jacobian that is summed over the batch would count for all of them."""
    together = trainer.losses(batch_of(trainer, images))
    alone = [trainer.losses(batch_of(trainer, image[None])) for image in images]
    for name, value in together.items():
        torch.testing.assert_close(value, torch.stack([each[name] for each in alone]).mean())


def check_exported(detector, images):
    exported = torch.export.export(detector, (images,), strict=False).module()
    with torch.inference_mode():
        expected, got = detector(images), exported(images)
    torch.testing.assert_close(got[0], expected.score)
    torch.testing.assert_close(got[1], expected.map)


def check_float32(plain, low, images):
    """The loss of a trainer in bf16 against that of one with the same weights in float32."""
    batch = batch_of(plain, images)
    with torch.autocast("cpu", torch.bfloat16):
        losses = low.losses(batch)
    for name, value in plain.losses(batch).items():
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], value, rtol=0.01, atol=0.01)
