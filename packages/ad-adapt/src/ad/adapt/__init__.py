"""Pretrained features, adapted to good pictures: subspaces, spheres and a discriminator.

`ad.adapt.models` is the catalogue; each model is one file or folder.
"""

from ad.adapt.models import CFA as CFA
from ad.adapt.models import CFA_RESNET18 as CFA_RESNET18
from ad.adapt.models import DFM as DFM
from ad.adapt.models import DFM_RESNET18 as DFM_RESNET18
from ad.adapt.models import SIMPLENET as SIMPLENET
from ad.adapt.models import SIMPLENET_RESNET18 as SIMPLENET_RESNET18
