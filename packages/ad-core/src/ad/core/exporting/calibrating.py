"""Where the threshold of a run was found, for a model that is exported with it."""

from __future__ import annotations

from ad.core.predict import ModelConfig
from ad.runtime.conditions import Conditions


def of_the_run(saved: ModelConfig, torch_version: str) -> Conditions | None:
    """Where the threshold of a run was found; None if it has none.

    Args:
        saved: What the run's model says of itself.
        torch_version: With which the run was made, or calibrated last.
    """
    if saved.calibration is None:
        return None
    where = saved.calibrated_on
    return Conditions(
        engine="torch",
        version=torch_version,
        device="unknown" if where is None else where.device,
        threads=1 if where is None else where.threads,
        precision=saved.precision,
        tiles=None if where is None else where.tiles,
    )
