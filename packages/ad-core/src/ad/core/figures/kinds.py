"""Figures of each kind of defect, for data that say how much of a defect has to be found.

MVTec LOCO is reported so: logical and structural defects each against the good pictures, then their
mean; and AU-sPRO in place of AUPRO, at the pictures' own size, as what has to be found is counted
in their pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ad.core.data.samples import Sample
from ad.core.errors import DataError, listed
from ad.core.framing import Framing
from ad.core.metrics import Defect, auroc
from ad.core.metrics.regions import region_overlap_area
from ad.core.metrics.saturated import Picture, count_saturated
from ad.runtime.framing.size import Size
from ad.runtime.pictures.drawn import read_mask_values
from ad.runtime.pictures.reading import upright_size
from ad.runtime.progress import SILENT, Progress

SATURATED_METRICS = ("au_spro", "au_spro_05")
"""AU-sPRO up to a false-positive rate of 0.3, and of 0.05."""

KIND_METRICS = ("image_auroc", *SATURATED_METRICS)
"""Of each kind of defect."""

Map = NDArray[np.float32]


def kind_metrics(
    samples: Sequence[Sample],
    scores: NDArray[np.float32],
    maps: Sequence[Map | None],
    progress: Progress = SILENT,
    *,
    framing: Framing | None = None,
) -> dict[str, dict[str, float | None]]:
    """Figures of each kind of defect against the good pictures.

    Args:
        samples: To test with, of one category.
        scores: ``[N]``, of each.
        maps: ``[h, w]``, of each, or None where there is none.
        progress: Where to show how far it is.
        framing: The way from maps to the pictures' own pixels; None if they are of all of a
            picture, stretched.

    Returns:
        Each of `KIND_METRICS` by the name of the group, in [0, 1]; None where it is not defined.

    Raises:
        PictureError: If a mask cannot be read, or is of another size than its picture.
        DataError: If a mask has a value that the data do not explain.
    """
    good = [row for row, sample in enumerate(samples) if sample.label == 0]
    found = {}
    for kind in sorted({sample.group for sample in samples if sample.label == 1}):
        rows = [row for row, s in enumerate(samples) if s.label == 1 and s.group == kind]
        both = [*good, *rows]
        labels = np.array([samples[row].label for row in both])
        known = [row for row in both if maps[row] is not None]
        found[kind] = {
            "image_auroc": auroc(scores[both], labels),
            **_saturated(kind, samples, known, maps, framing, progress),
        }
    return found


def mean_of_kinds(kinds: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    """Mean of each of `KIND_METRICS` over the kinds of defects; None if one lacks it."""
    mean: dict[str, float | None] = {}
    for key in KIND_METRICS:
        values = [metrics[key] for metrics in kinds.values()]
        known = [value for value in values if value is not None]
        mean[key] = float(np.mean(known)) if known and len(known) == len(values) else None
    return mean


def _saturated(
    kind: str,
    samples: Sequence[Sample],
    known: Sequence[int],
    maps: Sequence[Map | None],
    framing: Framing | None,
    progress: Progress,
) -> dict[str, float | None]:
    if not known:
        return dict.fromkeys(SATURATED_METRICS)
    with progress.step(f"sPRO of {kind}", total=2 * len(known), unit="pictures") as advance:

        def pictures() -> Iterator[Picture]:
            # One at a time: at their own size, all of them would not fit into memory.
            for row in known:
                sample, drawn = samples[row], maps[row]
                assert drawn is not None
                width, height = upright_size(sample.path)
                of_map = framing or Framing(size=Size(*drawn.shape))
                yield _seen(of_map.back(drawn, (height, width)), _defects(sample))
                advance(1)

        counts = count_saturated(pictures)
    return {
        "au_spro": region_overlap_area(counts, 0.3),
        "au_spro_05": region_overlap_area(counts, 0.05),
    }


def _seen(drawn: Map, defects: list[Defect]) -> Picture:
    """A picture without the pixels that were not seen, in one row, and what is seen of defects."""
    seen = ~np.isnan(drawn)
    if seen.all():
        return drawn, defects
    parts = [(defect.mask[seen][None], defect.saturation) for defect in defects]
    left = [
        Defect(mask, min(saturation, int(mask.sum()))) for mask, saturation in parts if mask.any()
    ]
    return drawn[seen][None], left


def _defects(sample: Sample) -> list[Defect]:
    """The defects of a picture: each value in each of its masks is one."""
    known = {saturation.value: saturation for saturation in sample.saturations}
    defects = []
    for path in sample.masks:
        values = read_mask_values(path, sample.path)
        for value in np.unique(values[values > 0]).tolist():
            if value not in known:
                msg = (
                    f"The mask `{path}` has pixels of value {value}, of which the data do not say "
                    f"how many have to be found; they do of {listed(str(v) for v in known)}."
                )
                raise DataError(msg)
            mask = values == value
            defects.append(Defect(mask, known[value].area(int(mask.sum()))))
    return defects
