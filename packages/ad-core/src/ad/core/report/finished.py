"""What finished runs wrote, read to be compared."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

from ad.core.errors import ModelFileError
from ad.core.saved.files import LARGEST_LINES
from ad.core.saved.record import RUN, Costs, read_costs, read_data_notes, read_run
from ad.core.thresholds.verdicts import Verdicts
from ad.runtime.calibration import Calibration
from ad.runtime.files import read_limited


class Scored(NamedTuple):
    """A line of ``scores.jsonl``."""

    path: str
    """The picture."""
    name: str
    """Its path below the folder that all test pictures of its category are in."""
    defective: bool
    """Whether it is."""
    group: str
    """The kind of its defect."""
    score: float
    """Its raw score."""


@final
@dataclass(frozen=True, slots=True)
class Finished:
    """What a finished run wrote."""

    folder: Path
    """Its directory."""
    record: dict[str, Any]
    """Its ``run.json``."""
    metrics: dict[str, Any]
    """Its ``metrics.json``."""
    costs: Costs
    """What it took."""
    white_level: int | None
    """See `ad.core.predict.ModelConfig`."""
    calibration: Calibration | None
    """That of now: it may have been made anew since the metrics were written."""
    scored: dict[str, list[Scored]]
    """Category to its test pictures; empty if the scores were not kept."""
    data_notes: tuple[str, ...] = ()
    """What it found odd about its pictures."""

    def column(self, category: str) -> str:
        """A category's name among those of all runs: it says of which data set it is."""
        return f"{self.record['settings']['dataset']} {category}"

    @property
    def seed(self) -> int:
        """Of its random choices."""
        return int(self.record["settings"]["seed"])

    def calls_defective(self, one: Scored) -> bool:
        """Whether the threshold of now does."""
        return self.calibration is not None and self.calibration.is_anomalous(one.score)

    def verdicts(self) -> Verdicts | None:
        """How the threshold of now does on the test pictures; None without their scores."""
        scored = [one for own in self.scored.values() for one in own]
        if self.calibration is None or not scored:
            return None
        called = [one.defective for one in scored if self.calls_defective(one)]
        defective = sum(one.defective for one in scored)
        return Verdicts(
            found=sum(called),
            defective=defective,
            false_alarms=len(called) - sum(called),
            good=len(scored) - defective,
        )


def read_finished(run: Path) -> Finished:
    """Read what a run wrote; nothing is scored.

    Raises:
        ModelFileError: If it is no finished run.
    """
    record = read_run(run)
    try:
        metrics = json.loads(read_limited(run / "metrics.json", RUN))
        config = json.loads(read_limited(run / "model" / "config.json", RUN))
        saved = config["calibration"]
        calibration = None if saved is None else Calibration.from_json(saved)
        scored = _scores(run / "scores.jsonl")
    except FileNotFoundError as error:
        name = Path(error.filename).name
        msg = (
            f"`{run}` is no finished run: it has no `{name}`. Finish it with `--resume`, or train "
            "again."
        )
        raise ModelFileError(msg) from error
    except ModelFileError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        msg = f"The results of `{run}` cannot be read ({error!r}): train again."
        raise ModelFileError(msg) from error
    return Finished(
        folder=run,
        record=record,
        metrics=metrics,
        costs=read_costs(run),
        white_level=config.get("white_level"),
        calibration=calibration,
        scored=scored,
        data_notes=tuple(read_data_notes(run)),
    )


def _scores(path: Path) -> dict[str, list[Scored]]:
    """Category to its test pictures, named by their paths below the folder all of them are in."""
    if not path.exists():
        return {}
    lines: dict[str, list[dict[str, Any]]] = {}
    for text in read_limited(path, RUN, largest=LARGEST_LINES).decode().splitlines():
        line = json.loads(text)
        lines.setdefault(line["category"], []).append(line)
    scored = {}
    for category, own in lines.items():
        root = os.path.commonpath([Path(line["path"]).parent for line in own])
        scored[category] = [
            Scored(
                path=line["path"],
                name=Path(line["path"]).relative_to(root).as_posix(),
                defective=bool(line["label"]),
                group=line["group"],
                score=float(line["score"]),
            )
            for line in own
        ]
    return scored
