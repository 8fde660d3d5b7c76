"""Networks that models build on, mostly frozen ones, and what is done to their maps.

| module         | holds                                                                |
|----------------|----------------------------------------------------------------------|
| `backbones`    | frozen pretrained networks, up to the layers that are used           |
| `blocks`       | EfficientNets and MobileNets, of which any block can be used         |
| `components`   | principal components                                                 |
| `filter_bank`  | the backbone that needs no weights                                   |
| `fused`        | convolutions and what follows them in one pass, where nothing learns  |
| `layers`       | names of a network's layers                                          |
| `maps`         | from a coarse anomaly map to one in the input's resolution, smoothed |
| `normalize`    | pictures as networks that learnt from ImageNet want them             |
| `of_timm`      | networks of timm, which is imported with it                          |
| `onednn`       | whether operations that are not public do what is known of them      |
| `patches`      | maps of several layers as one, of PatchCore's patches                |
| `residual`     | decoders that mirror a ResNet                                        |
| `products`     | attention and linear layers of transformers at work on CPUs in bf16  |
| `resnets`      | ResNets, equal to timm's                                             |
| `stored`       | pretrained weights that are on this machine, and the models they serve |
| `subspace`     | a plane through the features of good pictures, and what is beside it |
| `transformers` | tokens of vision transformers as maps                                |
| `weights`      | finding, reading and checking weights that were learnt elsewhere     |
"""

from __future__ import annotations

from ad.core.networks.backbones import FeatureExtractor, fresh_network
from ad.core.networks.components import (
    PrincipalComponents,
    leading_directions,
    principal_components,
)
from ad.core.networks.filter_bank import FilterBank
from ad.core.networks.fused import FusedSequential, fused_if_finite
from ad.core.networks.maps import (
    GaussianBlur,
    Sigma,
    SigmaOrNone,
    cells_looked_at,
    upsample,
)
from ad.core.networks.normalize import IMAGENET_MEAN, IMAGENET_STD, ImagenetNorm
from ad.core.networks.patches import ConcatenatedPatches, PooledPatches
from ad.core.networks.products import fast_products
from ad.core.networks.residual import RESNETS, ResidualBlock, ResidualDecoder, halving
from ad.core.networks.subspace import SubspaceDetector, pictures_of_plane
from ad.core.networks.weights import (
    file_in_weights_folder,
    fitting_weights,
    given_file,
    read_weights,
)

__all__ = [
    "ConcatenatedPatches",
    "FeatureExtractor",
    "FilterBank",
    "GaussianBlur",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ImagenetNorm",
    "FusedSequential",
    "PooledPatches",
    "PrincipalComponents",
    "RESNETS",
    "ResidualBlock",
    "ResidualDecoder",
    "Sigma",
    "SigmaOrNone",
    "SubspaceDetector",
    "cells_looked_at",
    "fast_products",
    "file_in_weights_folder",
    "fitting_weights",
    "fresh_network",
    "given_file",
    "halving",
    "fused_if_finite",
    "leading_directions",
    "pictures_of_plane",
    "principal_components",
    "read_weights",
    "upsample",
]
