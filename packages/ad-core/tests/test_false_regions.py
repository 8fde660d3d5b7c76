"""Regions of good pictures, against those of each map above the threshold of all others."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from ad.core.thresholds.held_out import calibrate_across
from ad.runtime.calibration import FalseRegions, good_maps
from ad.runtime.calibration.by_rate import calibrate
from ad.runtime.calibration.good_scores import calibrate_on, good_scores
from ad.runtime.framing import Framing, Size

FRAMING = Framing(size=Size(12, 16))
COUNT = 31
# Of several sizes, each with a pixel at the middle of each of its map's.
PICTURES = [np.zeros((12 * (1 + 2 * (n % 3)), 48, 3), np.uint8) for n in range(COUNT)]
MAPS = np.random.default_rng(0).gamma(1, size=(COUNT, 12, 16)).astype(np.float32) ** 2


def scored_from(numbers):
    """Reads and scores these pictures: a fake of `LoadedDetector.scored`."""

    def scored(pictures, batch_size):
        assert len(pictures) == len(numbers)
        for start in range(0, len(numbers), batch_size):
            rows = range(len(numbers))[start : start + batch_size]
            maps = MAPS[[numbers[row] for row in rows]]
            yield SimpleNamespace(indices=[*rows]), maps.max(axis=(1, 2)), maps

    return scored


def brute(numbers, rate):
    """Count in all pictures, each by the threshold of all others."""
    areas = []
    for number in numbers:
        others = MAPS[[other for other in numbers if other != number]].max(axis=(1, 2))
        above = FRAMING.back(MAPS[number], PICTURES[number].shape[:2])
        above = above > calibrate(others, others, rate=rate).pixel_threshold
        labels, _ = ndimage.label(above, structure=np.ones((3, 3)))
        areas.append(sorted(np.bincount(labels.ravel())[1:].tolist()))
    return FalseRegions(
        pictures=len(numbers),
        regions=sum(map(len, areas)),
        largest=tuple(sorted((own[-1] for own in areas if own), reverse=True)),
    )


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.35, 0.9])
def test_each_picture_is_judged_by_the_threshold_of_all_others(rate):
    everything = range(COUNT)
    found = calibrate_on(scored_from(everything), PICTURES, rate, FRAMING, batch_size=4)
    assert found.false_regions == brute(everything, rate)
    assert found.false_regions.largest  # the hottest one is above those that are not so hot
    folds = [[*range(first, COUNT, 4)] for first in (2, 0, 3, 1)]
    across = calibrate_across(map(scored_from, folds), PICTURES, folds, rate, FRAMING)
    assert across.false_regions == found.false_regions
    assert across.threshold == found.threshold


def test_groups_have_counts_of_their_own():
    groups = [range(10), range(10, COUNT)]
    found = good_scores(scored_from(range(COUNT)), PICTURES, FRAMING, 0.2, groups=groups)
    for group, numbers in enumerate([range(COUNT), *groups]):
        assert found.calibration(group).false_regions == brute([*numbers], 0.2)


def test_what_cannot_be_counted_is_not_known(monkeypatch):
    one = calibrate_on(scored_from([0]), PICTURES[:1], 0.01, FRAMING)
    assert one.false_regions is None
    monkeypatch.setattr(good_maps, "_ROOM", 3 * MAPS[0].nbytes)
    few, many = (
        calibrate_on(scored_from(range(COUNT)), PICTURES, rate, FRAMING) for rate in (0.05, 0.5)
    )
    assert few.false_regions == brute(range(COUNT), 0.05)
    assert many.false_regions is None


def test_few_maps_are_kept():
    maps = good_maps.GoodMaps([range(COUNT)], 0.05)
    for number, map_ in enumerate(MAPS):
        maps.see(number, float(map_.max()), map_)
        assert len(maps._maps) <= 2
