"""Networks that models build on, mostly frozen ones, and what is done to their maps.

| module         | holds                                                                |
|----------------|----------------------------------------------------------------------|
| `backbones`    | pretrained networks of timm, up to the layers that are used          |
| `blocks`       | EfficientNets and MobileNets, of which any block can be used         |
| `components`   | principal components                                                 |
| `filter_bank`  | the backbone that needs no weights                                   |
| `maps`         | from a coarse anomaly map to one in the input's resolution, smoothed |
| `normalize`    | pictures as networks that learnt from ImageNet want them             |
| `patches`      | maps of several layers as one, of PatchCore's patches                |
| `residual`     | decoders that mirror a ResNet                                        |
| `stored`       | pretrained weights that are on this machine, and the models they serve |
| `subspace`     | a plane through the features of good pictures, and what is beside it |
| `transformers` | tokens of vision transformers as maps                                |
| `weights`      | finding, reading and checking weights that were learnt elsewhere     |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ad.core.networks.components import (
    PrincipalComponents,
    leading_directions,
    principal_components,
)
from ad.core.networks.filter_bank import FilterBank
from ad.core.networks.maps import (
    GaussianBlur,
    Sigma,
    SigmaOrNone,
    cells_looked_at,
    upsample,
)
from ad.core.networks.normalize import IMAGENET_MEAN, IMAGENET_STD, ImagenetNorm
from ad.core.networks.patches import ConcatenatedPatches, PooledPatches
from ad.core.networks.residual import RESNETS, ResidualBlock, ResidualDecoder, halving
from ad.core.networks.subspace import SubspaceDetector, pictures_of_plane
from ad.core.networks.weights import (
    file_in_weights_folder,
    fitting_weights,
    given_file,
    read_weights,
)

if TYPE_CHECKING:
    from ad.core.networks.backbones import FeatureExtractor, fresh_network

__all__ = [
    "ConcatenatedPatches",
    "FeatureExtractor",
    "FilterBank",
    "GaussianBlur",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ImagenetNorm",
    "PooledPatches",
    "PrincipalComponents",
    "RESNETS",
    "ResidualBlock",
    "ResidualDecoder",
    "Sigma",
    "SigmaOrNone",
    "SubspaceDetector",
    "cells_looked_at",
    "file_in_weights_folder",
    "fitting_weights",
    "fresh_network",
    "given_file",
    "halving",
    "leading_directions",
    "pictures_of_plane",
    "principal_components",
    "read_weights",
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
