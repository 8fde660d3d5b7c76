"""Figures by brute force: nothing here shares an idea with the code that it checks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def curve(scores, labels):
    """(threshold, true positives, false positives) at each distinct score, from the highest."""
    return [
        (t, int(np.sum(labels & (scores >= t))), int(np.sum(~labels & (scores >= t))))
        for t in sorted(set(scores.tolist()), reverse=True)
    ]


def pairs_won(scores, labels):
    pairs = [(p > n) + (p == n) / 2 for p in scores[labels] for n in scores[~labels]]
    return float(np.mean(pairs)) if pairs else None


def stepwise_precision(scores, labels):
    total, caught = 0.0, 0
    for _, tp, fp in curve(scores, labels):
        total, caught = total + (tp - caught) / labels.sum() * tp / (tp + fp), tp
    return total


def precision_trapezoids(scores, labels):
    points = [(0.0, 1.0)]
    points += [(tp / labels.sum(), tp / (tp + fp)) for _, tp, fp in curve(scores, labels)]
    return sum((r1 - r0) * (p1 + p0) / 2 for (r0, p0), (r1, p1) in pairwise(points))


def best_f1(scores, labels):
    num_positives = labels.sum()
    return max(2 * tp / (tp + fp + num_positives) for _, tp, fp in curve(scores, labels))


def flooded_regions(mask):
    """8-connected regions as sets of pixels, by flooding."""
    left, regions = {tuple(p) for p in np.argwhere(mask).tolist()}, []
    while left:
        region, front = set(), [left.pop()]
        while front:
            row, column = front.pop()
            region.add((row, column))
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            front += near
        regions.append(region)
    return regions


def overlap_curve_area(maps, masks, limit):
    regions = [
        [m[pixel] for pixel in region]
        for m, k in zip(maps, masks, strict=True)
        for region in flooded_regions(k)
    ]
    normal = np.concatenate([m[~k] for m, k in zip(maps, masks, strict=True)])
    points = [(0.0, 0.0)]
    for t in sorted({s for m in maps for s in m.ravel().tolist()}, reverse=True):
        overlap = np.mean([np.mean([s >= t for s in region]) for region in regions])
        points.append((float(np.mean(normal >= t)), float(overlap)))
    return area_below(points, limit)


def area_below(points, limit):
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
        elif x0 < limit:
            y_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            area += (limit - x0) * (y0 + y_limit) / 2
    return area / limit


def saturated_curve_area(maps, defects, limit):
    pairs = list(zip(maps, defects, strict=True))
    normal = np.array(
        [
            m[pixel]
            for m, own in pairs
            for pixel in np.ndindex(m.shape)
            if not any(d.mask[pixel] for d in own)
        ]
    )
    points = [(0.0, 0.0)]
    for t in sorted({s for m in maps for s in m.ravel().tolist()}, reverse=True):
        overlaps = [min(np.sum(m[d.mask] >= t) / d.saturation, 1) for m, own in pairs for d in own]
        points.append((float(np.mean(normal >= t)), float(np.mean(overlaps))))
    return area_below(points, limit)
