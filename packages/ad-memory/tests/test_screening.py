"""No row within reach is left out, and few others are named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ad.memory import screening
from ad.memory.neighbors import Index
from ad.memory.screening import Screen


def like_features(num_rows: int, num_features: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    deviation = 0.9 ** torch.arange(num_features)
    return 5 + torch.randn(num_rows, num_features, generator=generator) * deviation


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
@pytest.mark.parametrize("num_rows", [5, 1500])
def test_every_row_within_reach_is_named(num_rows: int, scale: float) -> None:
    bank, queries = like_features(num_rows, 60) * scale, like_features(300, 60, seed=1) * scale
    distance = torch.cdist(queries.double(), bank.double())
    # As far as the fourth nearest: a reach that falls exactly onto a row.
    limit = distance.sort(dim=1).values[:, 3]
    centre = bank.double().mean(0)
    screen = Screen(bank, centre)
    shown = []

    def reach(some: slice, nearest: Tensor) -> Tensor:
        shown.append(nearest)
        return limit[some]

    named = torch.zeros_like(distance, dtype=torch.bool)
    for found in screen.pairs(queries, 1, reach):
        assert not found.unsure.any()
        named[found.queries][found.query, found.row] = True

    assert named[distance <= limit[:, None]].all()
    assert named.sum() < 12 * len(queries)  # a reach of all rows would be correct, too
    looked = torch.cat(shown)
    assert (distance.gather(1, looked)[:, 0] <= 1.3 * distance.amin(1)).all()


def test_no_row_is_left_out_where_rounding_moves_queries_as_far_as_rows_are_apart() -> None:
    bank, queries = like_features(200, 2), like_features(2000, 2, seed=1)
    distance = torch.cdist(queries.double(), bank.double())
    limit, nearest = distance.min(1)
    centre = bank.double().mean(0)

    (found, rest) = Screen(bank, centre).pairs(queries, 1, lambda some, nearest: limit[some])

    named = torch.zeros_like(distance, dtype=torch.bool)
    for part in (found, rest):
        named[part.queries][part.query, part.row] = True
    assert named[torch.arange(2000), nearest].all()


def test_no_row_is_left_out_where_norms_differ_a_thousandfold_and_queries_are_cut_off() -> None:
    far = torch.logspace(-1.5, 1.5, 900)[:, None]
    bank = like_features(900, 40, seed=2) * far
    queries = torch.cat([like_features(80, 40, seed=3), 300 * like_features(3, 40, seed=4)])
    distance = torch.cdist(queries.double(), bank.double())
    limit = distance.sort(dim=1).values[:, 2]
    centre = bank.double().mean(0)

    (found,) = Screen(bank, centre).pairs(queries, 1, lambda some, nearest: limit)

    named = torch.zeros_like(distance, dtype=torch.bool)
    named[found.query, found.row] = True
    assert not found.unsure.any()
    assert named[distance <= limit[:, None]].all()
    assert named[:80].sum() < 12 * 80


def test_queries_that_it_cannot_judge_are_said_to_be_unsure() -> None:
    bank = like_features(200, 8)
    centre = bank.double().mean(0)
    queries = like_features(4, 8, seed=1)
    queries[0], queries[1, 2], queries[2, 3] = 1e13, float("nan"), float("inf")

    (found,) = Screen(bank, centre).pairs(queries, 1, lambda some, nearest: torch.full((4,), 0.5))

    assert found.unsure.tolist() == [True, True, True, False]
    assert set(found.query.tolist()) <= {3}


def test_distances_have_the_same_bits_whichever_way_they_were_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ad.memory.neighbors._FEW_ROWS", 1)
    bank, queries = like_features(3000, 70).half(), like_features(200, 70, seed=1)
    found = []
    for screened in (True, False):
        monkeypatch.setattr(screening, "pays", lambda _, screened=screened: screened)
        index = Index(bank)
        assert (index.screen is not None) == screened
        found.append([index.search(queries, k) for k in (1, 4)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_queries_far_from_all_rows_are_left_to_cheaper_ways() -> None:
    bank = like_features(3000, 60)
    queries = 5 + 30 * torch.randn(50, 60, generator=torch.Generator().manual_seed(2))
    limit = torch.cdist(queries.double(), bank.double()).amin(1)
    centre = bank.double().mean(0)

    (found,) = Screen(bank, centre).pairs(queries, 1, lambda some, nearest: limit[some])

    assert found.unsure.all()


@pytest.mark.parametrize("scale", [1e-23, 1e-21])
def test_distances_whose_squares_float32_cannot_hold_are_still_of_rows(scale: float) -> None:
    queries = scale * torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    distance, row = Index(torch.zeros(2500, 64)).search(queries, 1)
    assert ((row >= 0) & (row < 2500)).all()
    assert distance.isfinite().all()
