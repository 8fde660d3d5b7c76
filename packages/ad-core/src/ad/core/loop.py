"""What drives a trainer: hands it the pictures, in order, on its device."""

from __future__ import annotations

import torch

from ad.core.data.batches import PictureSet, to_device
from ad.core.errors import PluginError
from ad.core.trainer import OnePassTrainer, Trainer


def fit(trainer: Trainer, pictures: PictureSet) -> None:
    """Teach a trainer's detector from normal pictures.

    Args:
        trainer: Fresh; its detector is fitted afterwards.
        pictures: Good parts only, at the setup's size.

    Raises:
        PictureError: If a picture cannot be read.
        PluginError: If the trainer is of a kind that nothing here can drive.
    """
    if not isinstance(trainer, OnePassTrainer):
        msg = f"`{type(trainer).__name__}` must be a `OnePassTrainer`."
        raise PluginError(msg)
    setup = trainer.setup
    with torch.inference_mode():
        trainer.begin(len(pictures))
        with setup.progress.step("learning", total=len(pictures), unit="pictures") as advance:
            for batch in pictures.batches(setup.batch_size):
                trainer.observe(to_device(batch.pictures, setup.device))
                advance(len(batch.indices))
        trainer.conclude()
    trainer.detector.eval()
