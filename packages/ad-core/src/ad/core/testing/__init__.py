"""For tests, of this project and of others' models.

* `check_model`: what every model must promise, as code; `run_checks` tells how each check went.
* `ad.core.testing.mean_picture`: the smallest whole model, to test what surrounds a model.
* `ad.core.testing.pictures`: tiny pictures with and without a defect.
"""

from __future__ import annotations

from ad.core.testing.conformance import CheckResult as CheckResult
from ad.core.testing.conformance import check_model as check_model
from ad.core.testing.conformance import run_checks as run_checks
