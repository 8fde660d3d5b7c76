"""Exact likelihoods of deep features: what good pictures make likely, by normalising flows.

`ad.flow.models` is the catalogue; each model is one file or folder.
"""

from ad.flow.models import CFLOW_RESNET18 as CFLOW_RESNET18
from ad.flow.models import CFLOW_RESNET50 as CFLOW_RESNET50
from ad.flow.models import CSFLOW as CSFLOW
from ad.flow.models import FASTFLOW_CAIT as FASTFLOW_CAIT
from ad.flow.models import FASTFLOW_DEIT as FASTFLOW_DEIT
from ad.flow.models import FASTFLOW_RESNET18 as FASTFLOW_RESNET18
from ad.flow.models import FASTFLOW_RESNET50 as FASTFLOW_RESNET50
from ad.flow.models import MSFLOW as MSFLOW
from ad.flow.models import MSFLOW_RESNET18 as MSFLOW_RESNET18
from ad.flow.models import UFLOW_RESNET18 as UFLOW_RESNET18
from ad.flow.models import UFLOW_RESNET50 as UFLOW_RESNET50
