"""For tests, of this project and of others' models.

* `check_model`: what every model must promise, as code; `run_checks` tells how each check went.
* `make_picture`, `write_mvtec_tree`: tiny pictures with and without a defect.
* The modules `mean_picture` and `linear_student`: the smallest whole models, one for each way of
  learning, to test what surrounds a model.
"""

from __future__ import annotations

from ad.core.testing.conformance import CheckResult, check_model, run_checks
from ad.core.testing.pictures import make_picture, write_mvtec_tree

__all__ = ["CheckResult", "check_model", "make_picture", "run_checks", "write_mvtec_tree"]
