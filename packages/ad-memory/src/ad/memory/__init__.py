"""Memory models: they remember what good pictures look like and measure the distance to it.

`ad.memory.models` is the catalogue; each model is one file.
"""

from ad.memory.models import DFKDE as DFKDE
from ad.memory.models import PADIM as PADIM
from ad.memory.models import PADIM_RESNET18 as PADIM_RESNET18
from ad.memory.models import PATCHCORE as PATCHCORE
from ad.memory.models import PATCHCORE_RESNET18 as PATCHCORE_RESNET18
