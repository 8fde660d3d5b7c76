"""Distillation models: a student learns from a pretrained network what good pictures look like.

What the student cannot reproduce was not in the good pictures. `ad.distill.models` is the
catalogue; each model is one file or folder.
"""

from ad.distill.models import EFFICIENTAD as EFFICIENTAD
from ad.distill.models import EFFICIENTAD_MEDIUM as EFFICIENTAD_MEDIUM
from ad.distill.models import EFFICIENTAD_SMALL as EFFICIENTAD_SMALL
from ad.distill.models import FRE as FRE
from ad.distill.models import FRE_RESNET18 as FRE_RESNET18
from ad.distill.models import REVERSE_DISTILLATION as REVERSE_DISTILLATION
from ad.distill.models import REVERSE_DISTILLATION_RESNET18 as REVERSE_DISTILLATION_RESNET18
from ad.distill.models import STFPM as STFPM
from ad.distill.models import STFPM_RESNET18 as STFPM_RESNET18
