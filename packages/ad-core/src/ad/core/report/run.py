"""What the report of one run says, from what its test has found."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from ad.core.data.inventory import Inventory
from ad.core.data.samples import Sample
from ad.core.errors import DataError, ModelFileError
from ad.core.metrics import auroc
from ad.core.predict import ModelConfig
from ad.core.report.gallery import Gallery, GoodPictures, Shown
from ad.core.report.page import data_uri, write_page
from ad.core.report.speeds import read_speeds
from ad.core.saved.record import RUN, calibrations_since, read_costs, read_run
from ad.core.thresholds.verdicts import calibration_notes, renewed_notes
from ad.runtime.files import read_limited
from ad.runtime.framing.size import size_of
from ad.runtime.heatmaps import colour_table
from ad.runtime.pictures.reading import upright_size

if TYPE_CHECKING:
    from ad.core.figures.measure import Evaluation

REPORT: Final = "report.html"
"""Name of the report in a run directory."""

_AGAIN: Final = "Scored again with the saved model, after training."
_NOTHING: Final = (
    "No test pictures, and no good ones to show: what a detector has learnt from scores lower than "
    "new pictures do."
)

FIGURES: Final = {
    "image_auroc": (
        "image AUROC",
        "Chance that a defective picture scores higher than a good one. 1 is perfect, 0.5 is "
        "guessing. Needs no threshold.",
    ),
    "image_ap": (
        "image AP",
        "Average precision: the share of real defects among the pictures that score highest, "
        "averaged over all defects. Guessing gives the share of defective pictures.",
    ),
    "image_f1max": (
        "image F1-max",
        "Best balance of precision and recall of any threshold, chosen on these very pictures.",
    ),
    "pixel_auroc": (
        "pixel AUROC",
        "As image AUROC, pixel by pixel. Near 1 easily, as most pixels are normal.",
    ),
    "pixel_ap": (
        "pixel AP",
        "As image AP, pixel by pixel. Stricter than pixel AUROC where defects are small.",
    ),
    "pixel_f1max": ("pixel F1-max", "As image F1-max, pixel by pixel."),
    "aupro": (
        "AUPRO 0.3",
        "How much of each defect is covered, small and large ones alike, up to 30 % of the normal "
        "pixels called defective.",
    ),
    "aupro_05": ("AUPRO 0.05", "The same up to 5 %: closer to what is used in practice."),
    "au_spro": (
        "AU-sPRO 0.3",
        "As AUPRO 0.3, but of each defect only so much has to be covered as its data ask for.",
    ),
    "au_spro_05": ("AU-sPRO 0.05", "The same up to 5 %: MVTec LOCO's published figure."),
}
"""Title and meaning of each figure of a run."""


def write_run_report(
    path: Path,
    *,
    record: Mapping[str, Any],
    config: ModelConfig,
    samples: Sequence[Sample],
    evaluation: Evaluation,
    gallery: Gallery,
    notes: Sequence[str],
    times: Sequence[tuple[str, str]] | None = None,
    calibrations: Sequence[str] = (),
    speeds: Mapping[str, Any] | None = None,
    good: GoodPictures | None = None,
) -> None:
    """Write the report of one run.

    It holds no time but those given: a run's own report must be the same when the run is repeated.

    Args:
        path: The file.
        record: The run's ``run.json``.
        config: What its saved model says about itself.
        samples: The test samples.
        evaluation: Their scores and figures.
        gallery: Has seen them.
        notes: What a reader of the figures must know.
        times: What took how long; see `read_times`.
        calibrations: How its thresholds were set since; see `read_calibrations`.
        speeds: How fast it was on some machine; see `ad.core.report.speeds`.
        good: What is shown where there are no test pictures.

    Raises:
        DataError: If a score is not finite.
        PictureError: If a mask cannot be read.
        OutputError: If the file cannot be written.
    """
    title = run_title(record)
    scores = evaluation.scores
    if good is not None:
        samples, scores, gallery = good.gallery.samples, good.scores, good.gallery
    data = {
        "shows": _shows(samples, good),
        "lead": _NOTHING if good is None else good.lead,
        "without": "" if good is None else good.without,
        "title": title,
        "figures": figures(evaluation.metrics),
        "categories": [
            {"name": name, "figures": list(metrics.values())}
            for name, metrics in evaluation.categories.items()
        ],
        "resolution": None
        if evaluation.resolution is None
        else str(size_of(evaluation.resolution)),
        "notes": list(notes),
        "calibration": None if config.calibration is None else config.calibration.facts(),
        "localises": gallery.localises,
        "outlines": gallery.outlines,
        "colours": colour_table().flatten().tolist(),
        **_scored(samples, scores),
        "gallery": [_picture(gallery, shown) for shown in gallery.shown],
        "facts": _facts(record, config),
        "roi": None if gallery.region is None else data_uri(gallery.region),
        "command": "\n".join([record["command"], *calibrations]),
        "speeds": None if speeds is None else dict(speeds),
        "times": None if times is None else [list(time) for time in times],
    }
    write_page(path, "run", title, data)


def write_again(
    path: Path,
    run: Path,
    config: ModelConfig,
    evaluation: Evaluation,
    gallery: Gallery,
    *,
    others: Sequence[str],
    good: GoodPictures | None = None,
) -> None:
    """Write the report of a run whose test pictures were scored again; see `write_run_report`.

    Args:
        path: The file.
        run: The run directory.
        config: What its saved model says about itself.
        evaluation: Scores and figures of now.
        gallery: Has seen the test pictures.
        others: What is to be said if these are not those of the training; empty if they are.
        good: What is shown where there are no test pictures.
    """
    notes = _notes_again(run, config, evaluation, others)
    if not gallery.samples and (good is None or good.without):
        notes = [note for note in notes if note != _AGAIN]  # nothing was
    write_run_report(
        path,
        record=read_run(run),
        config=config,
        samples=gallery.samples,
        evaluation=evaluation,
        gallery=gallery,
        notes=list(dict.fromkeys(notes)),
        times=read_times(run),
        calibrations=read_calibrations(run),
        speeds=read_speeds(run),
        good=good,
    )


def _shows(
    samples: Sequence[Sample], good: GoodPictures | None
) -> Literal["test", "good", "good, others since", "nothing"]:
    if good is not None:
        return "good, others since" if good.renewed else "good"
    return "test" if samples else "nothing"


def _notes_again(
    run: Path, config: ModelConfig, evaluation: Evaluation, others: Sequence[str]
) -> list[str]:
    """The run's own notes, if it came to the same figures of the same pictures; else why not."""
    notes = [*others, *calibration_notes(config.calibration), *evaluation.notes]
    try:
        then = json.loads(read_limited(run / "metrics.json", RUN))
        figures, noted = dict(then["metrics"]), list(then["notes"])
    except FileNotFoundError:
        return [_AGAIN, *notes]
    except ModelFileError:
        raise
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        msg = (
            f"`{run / 'metrics.json'}` cannot be read ({type(error).__name__}: {error}). Move it "
            "away: then the run is told of without the figures that training found."
        )
        raise ModelFileError(msg) from error
    changed = [
        f"{key} {_figure(figures.get(key))} then, {_figure(value)} now"
        for key, value in evaluation.metrics.items()
        if _figure(figures.get(key)) != _figure(value)
    ]
    if changed:
        reason = "The figures differ from those that training found: data, device or versions have"
        return [f"{reason} changed ({'; '.join(changed)}).", _AGAIN, *notes]
    if others:  # what the training noted of its pictures is not true of these
        return [_AGAIN, *notes]
    verdicts, categories = evaluation.verdicts, len(evaluation.categories)
    renewed = renewed_notes(noted, config.calibration, verdicts, categories)
    return [_AGAIN, *renewed, *evaluation.notes]


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def run_title(record: Mapping[str, Any]) -> str:
    """What was trained on what, for a person."""
    settings = record["settings"]
    what = settings["category"]
    if what == "all" and settings["data_root"] is not None:
        what = Path(settings["data_root"]).name
    return f"{settings['model']} on {settings['dataset']} {what}"


def figures(metrics: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Figures with title and meaning; one that is not known here has its name for a title."""
    return [
        {"key": key, "title": title, "meaning": meaning, "value": value}
        for key, value in metrics.items()
        for title, meaning in [FIGURES.get(key, (key, ""))]
    ]


def read_times(run: Path) -> list[tuple[str, str]]:
    """What took how long, from a run's ``log.jsonl``, for a person; empty without one."""
    costs, times = read_costs(run), []
    if costs.fit_seconds is not None:
        since = " since it was last resumed" if costs.resumed else ""
        times.append(("learning", f"{costs.fit_seconds:.1f} s{since}"))
    if costs.seconds_per_picture is not None:
        times.append(("testing", f"{1000 * costs.seconds_per_picture:.1f} ms a picture"))
    if costs.peak_memory_bytes:
        times.append(("peak memory", f"{costs.peak_memory_bytes / 2**30:.2f} GiB"))
    return times


def read_calibrations(run: Path) -> list[str]:
    """The commands that set a run's thresholds anew since it was trained, from its log."""
    return [_calibrate_line(run, event) for event in calibrations_since(run)]


def _calibrate_line(run: Path, event: Mapping[str, Any]) -> str:
    after, pictures = event["after"], event["pictures"]
    words = ["ad", "calibrate", str(run)]
    if pictures is None:
        words += ["--threshold", str(after["threshold"])]
        if after["pixel_threshold"] is not None:
            words += ["--pixel-threshold", str(after["pixel_threshold"])]
    elif after["num_defective"]:
        words += ["--validation", pictures, "--precision", event["precision"]]
    else:
        words += ["--normals", pictures, "--false-alarms", str(after["rate"])]
        words += ["--precision", event["precision"]]
    return shlex.join(words)


def _scored(samples: Sequence[Sample], of: Sequence[float]) -> dict[str, Any]:
    """Every picture with its score, as columns, and what kinds there are."""
    scores = np.array(of)
    finite = np.isfinite(scores)
    if not finite.all():
        first = int(np.argmin(finite))
        msg = (
            f"The score of `{samples[first].path}` is {scores[first]}: a report needs scores that "
            "are finite."
        )
        raise DataError(msg)
    root = os.path.commonpath([sample.path.parent for sample in samples]) if samples else ""
    kinds = list(dict.fromkeys((s.category, s.group, s.label) for s in samples))
    number = {kind: place for place, kind in enumerate(kinds)}
    return {
        "root": root,
        "names": [str(sample.path.relative_to(root)) for sample in samples],
        "scores": list(of),
        "kindOf": [number[s.category, s.group, s.label] for s in samples],
        "kinds": [
            {
                "category": category,
                "group": group,
                "defective": bool(label),
                "auroc": _against_good(samples, scores, category, group) if label else None,
            }
            for category, group, label in kinds
        ],
    }


def _against_good(
    samples: Sequence[Sample], scores: np.ndarray[Any, Any], category: str, group: str
) -> float | None:
    """AUROC of one kind of defect against the good pictures of its category."""
    rows = [
        row
        for row, sample in enumerate(samples)
        if sample.category == category and (sample.label == 0 or sample.group == group)
    ]
    return auroc(scores[rows], np.array([samples[row].label for row in rows]))


def _picture(gallery: Gallery, shown: Shown) -> dict[str, Any]:
    mask = gallery.mask(shown)
    width, height = upright_size(gallery.samples[shown.index].path)
    return {
        "index": shown.index,
        "size": [width, height],
        "picture": data_uri(shown.picture),
        "heat": data_uri(shown.heat),
        "own": data_uri(shown.own),
        "outline": data_uri(shown.outline),
        "mask": data_uri(mask),
    }


def _facts(record: Mapping[str, Any], config: ModelConfig) -> list[dict[str, Any]]:
    """Groups of names and values: how the run was made."""
    settings, data, machine = record["settings"], record["data"], record["machine"]
    calibration = config.calibration
    set_on = "none" if calibration is None else f"{calibration.num_images} good"
    if calibration is not None and not calibration.num_images:
        set_on = "none: it was chosen by hand"
    elif calibration is not None and calibration.num_defective:
        set_on += f" and {calibration.num_defective} defective"
    elif calibration is not None and calibration.folds:
        set_on += f", each scored by one of {calibration.folds} detectors that had not seen it"
    chosen = {
        key: value
        for key, value in with_size_in_words(settings).items()
        if key not in ("dataset", "category", "model", "data_root", "options") and value is not None
    }
    groups: dict[str, Mapping[str, Any]] = {
        "Data": {
            "layout": settings["dataset"],
            "category": settings["category"],
            "folder": settings["data_root"] or "the layout's own",
            "pictures in all": data["pictures"],
            **_read_as(record),
            "good pictures to learn from, with those held out": data["training"][0],
            "pictures that the threshold was set on": set_on,
            "sha256 of names and sizes": data["sha256"],
            **{f"{name} (sha256)": value for name, value in data.get("inputs", {}).items()},
        },
        "Model": {"name": config.model, **config.options},
        "Settings": chosen,
        "Machine": {
            "device": record["device"],
            "precision": record["precision"],
            "processes": record.get("processes", 1),
            "threads": record["threads"],
            **machine,
        },
        "Versions": record["versions"],
    }
    return [
        {"title": title, "facts": [[name, as_text(value)] for name, value in group.items()]}
        for title, group in groups.items()
    ]


def _read_as(record: Mapping[str, Any]) -> dict[str, str]:
    """What the data were read as, of a run that recorded it."""
    if "read" not in record:
        return {}
    inventory = Inventory.from_json(record["read"])
    return {
        "read as": "; ".join(inventory.read_as()),
        "left out": inventory.not_read() or "nothing",
    }


def with_size_in_words(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a ``run.json`` with what is height and width in ``img_size`` said."""
    words = {
        name: str(size_of(side)) if isinstance(side, list | tuple) else side
        for name in ("img_size", "resize", "tile")
        if (side := settings.get(name)) is not None
    }
    crop = settings.get("crop")
    said = {} if crop is None else {"crop": "x {}, y {}, {} x {} pixels".format(*crop)}
    return {**settings, **words, **said}


def as_text(value: object) -> str:
    """A setting's value for a person."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
