"""The threshold of an exported model, set by the scores of its own engine.

A threshold is one of the scores of good pictures. These come out a little otherwise in another
precision and engine, so that a threshold of elsewhere calls the very picture that set it defective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ad.core.data.samples import Sample
from ad.core.predict import ModelConfig
from ad.core.thresholds.held_out import good_scores
from ad.runtime.conditions import Conditions
from ad.runtime.config import ExportConfig
from ad.runtime.progress import SILENT, Progress
from ad.runtime.runtime import Runtime

LEAST_OF_CATEGORY = 20
"""Good pictures of a category that a threshold of its own takes."""


def set_by_own_scores(
    runtime: Runtime,
    good: Sequence[Sample],
    false_alarms: float,
    *,
    progress: Progress = SILENT,
) -> tuple[ExportConfig, list[str]]:
    """Find an exported model's thresholds: of all pictures, and of each category with enough.

    Args:
        runtime: The exported model.
        good: At least one good picture that the detector has not learnt from; of which categories
            they are counts only if these are the model's.
        false_alarms: Share of good pictures that may be called defective, in (0, 1).
        progress: Where to show how far it is.

    Returns:
        Its configuration with them, and what a user should know.

    Raises:
        PictureError: If a picture cannot be read.
        SettingError: If the share is out of range.
    """
    config = runtime.config
    paths = [sample.path for sample in good]
    groups, few = {}, []
    for category in config.categories if len(config.categories) > 1 else ():
        rows = [row for row, sample in enumerate(good) if sample.category == category]
        if len(rows) >= LEAST_OF_CATEGORY:
            groups[category] = rows
        else:
            few.append(f"`{category}` {len(rows)}")
    found = good_scores(
        runtime.scored,
        paths,
        config.framing,
        false_alarms,
        groups=[*groups.values()],
        batch_size=1,  # as it will mostly be used
        progress=progress,
    )
    own = {category: found.calibration(group) for group, category in enumerate(groups, start=1)}
    notes = []
    if few:
        notes.append(
            f"A threshold of its own takes {LEAST_OF_CATEGORY} good pictures of a category; "
            f"{', '.join(few)} of those there are: verdicts on them are by the threshold of all."
        )
    return replace(
        config,
        calibration=found.calibration(),
        calibrations=own,
        calibrated_on=replace(runtime.engine.conditions, tiles=config.framing.tile_counts(paths)),
    ), notes


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
