"""Networks that models build on, mostly frozen ones, and what is done to their maps.

| module        | holds                                                                  |
|---------------|------------------------------------------------------------------------|
| `backbones`   | pretrained networks of timm, up to the layers that are used            |
| `filter_bank` | the backbone that needs no weights                                     |
| `maps`        | from a coarse anomaly map to one in the input's resolution, smoothed   |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ad.core.networks.filter_bank import FilterBank
from ad.core.networks.maps import GaussianBlur, Sigma, SigmaOrNone, upsample

if TYPE_CHECKING:
    from ad.core.networks.backbones import (
        IMAGENET_MEAN,
        IMAGENET_STD,
        FeatureExtractor,
        fresh_network,
    )

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "FeatureExtractor",
    "FilterBank",
    "GaussianBlur",
    "Sigma",
    "SigmaOrNone",
    "fresh_network",
    "upsample",
]

if not TYPE_CHECKING:  # which would else take any name for one of these

    def __getattr__(name: str) -> object:
        if name not in __all__:
            msg = f"module `ad.core.networks` has no attribute `{name}`"
            raise AttributeError(msg)
        # timm takes seconds to import, and models without a backbone run without it.
        from ad.core.networks import backbones

        return getattr(backbones, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
