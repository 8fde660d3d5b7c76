"""Reconstruction models: networks that learn from nothing but good pictures to rebuild them.

What they cannot rebuild was not in the good pictures. None needs a pretrained network.
`ad.recon.models` is the catalogue; each model is one file or folder.
"""

from ad.recon.models import AUTOENCODER as AUTOENCODER
from ad.recon.models import DRAEM as DRAEM
from ad.recon.models import DSR as DSR
from ad.recon.models import GANOMALY as GANOMALY
