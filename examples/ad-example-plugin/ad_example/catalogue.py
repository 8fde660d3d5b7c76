"""What the package offers; imports no torch, so that `ad models` stays quick."""

from ad.core import ModelSpec

SPREAD = ModelSpec(
    name="spread",
    trainer="ad_example.spread:SpreadTrainer",
    model={"floor": 0.02},
    train={"num_epochs": 1, "batch_size": 8, "img_size": 256, "normalize": False},
    summary="distance of each pixel to the mean good picture, in units of its spread",
    tasks=("classifies", "localises"),
    by_gradient=False,
)
