"""Every installed model keeps the promises of a detector."""

from importlib.metadata import entry_points

import pytest

from ad.core.registry import MODELS
from ad.core.testing import check_model


@pytest.mark.parametrize("name", sorted(point.name for point in entry_points(group=MODELS)))
def test_a_model_keeps_what_every_detector_promises(name):
    check_model(name)
