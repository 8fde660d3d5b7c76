"""What the headers of pictures tell of them all: shapes and colours that are not those of most.

Pictures of several categories are compared within each.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from ad.core.data.samples import Sample
from ad.runtime.pictures.drawn import Header

_OTHER_SHAPE = 1.25
"""By which factor width to height may differ before a picture is one of another shape."""

Seen = tuple[Sample, Header]


def odd_shapes(seen: Iterable[Seen]) -> list[str]:
    """Tell of pictures that are stretched otherwise than most to the one size that a model sees.

    Args:
        seen: Pictures with their headers.

    Returns:
        One note with how many they are, or none.
    """
    odd: list[tuple[Seen, Seen]] = []
    count = 0
    for own in _by_category(seen):
        count += len(own)
        ratios = np.log([header.size[0] / header.size[1] for _, header in own])
        order = np.sort(ratios)
        near = math.log(_OTHER_SHAPE) + 1e-9  # so that rounding tells nothing apart
        # The shape that has the most others near it; of photographs hardly two are the same.
        usual = int(
            np.argmax(
                np.searchsorted(order, ratios + near, "right")
                - np.searchsorted(order, ratios - near, "left")
            )
        )
        apart = np.abs(ratios - ratios[usual]) > near
        odd += [(one, own[usual]) for one, other in zip(own, apart, strict=True) if other]
    if not odd:
        return []
    first, common = odd[0]
    return [
        f"{len(odd)} of {count} pictures have another shape than the most common one: "
        f"{_named(first)}, where {_named(common)} is common (height x width). All are "
        "stretched to one shape, so that the same part looks different in them. `--fit pad` "
        '(`fit="pad"` in Python) keeps the shape of each.'
    ]


def grey_and_coloured(seen: Iterable[Seen]) -> list[str]:
    """Tell of pictures saved in grey among pictures saved in colours.

    Args:
        seen: Pictures with their headers.

    Returns:
        One note with how many they are, or none.
    """
    grey: list[Sample] = []
    coloured: list[Sample] = []
    for own in _by_category(seen):
        without = [sample for sample, header in own if header.colours is False]
        with_them = [sample for sample, header in own if header.colours]
        if without and with_them:
            grey += without
            coloured += with_them
    if not grey:
        return []
    return [
        f"{len(grey)} of {len(grey) + len(coloured)} pictures are saved in grey, such as "
        f"`{grey[0].path}`, and {len(coloured)} in colours, such as `{coloured[0].path}`. If these "
        "show any, grey ones look odd to a model beside them: save all as those will be that it "
        "is to judge."
    ]


def _by_category(seen: Iterable[Seen]) -> Iterable[Sequence[Seen]]:
    of: dict[str, list[Seen]] = defaultdict(list)
    for sample, header in seen:
        of[sample.category].append((sample, header))
    return of.values()


def _named(one: Seen) -> str:
    """A picture with its height and width, in the order in which sizes are typed."""
    sample, header = one
    return f"`{sample.path}` ({header.size[1]} x {header.size[0]})"
