from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from ad.core.errors import SettingError
from ad.memory.neighbors import Index, NearestNeighbors, nearest


@pytest.fixture(params=["screened", "as a large bank", "as a small bank"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every promise holds all ways a bank is searched, whatever size and machine they are for."""
    monkeypatch.setattr("ad.memory.screening.pays", lambda _: request.param == "screened")
    monkeypatch.setattr(
        "ad.memory.neighbors._FEW_ROWS", 10**9 if request.param == "as a small bank" else 1
    )
    return str(request.param)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def like_features(num_rows: int, num_features: int, *, seed: int = 0) -> Tensor:
    """Rows with a far common centre and variances that fall off, as features of networks do."""
    deviation = 0.85 ** torch.arange(num_features)
    return 5 + noise(num_rows, num_features, seed=seed) * deviation


def brute_force(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    difference = queries.double()[:, None] - bank.double()
    return difference.square().sum(2).sqrt().topk(k, largest=False)


@pytest.mark.parametrize("make", [noise, like_features])
@pytest.mark.parametrize(("num_rows", "k"), [(1, 1), (3, 3), (50, 1), (2001, 1), (2001, 9)])
def test_exact_search_equals_brute_force(make: object, num_rows: int, k: int) -> None:
    queries, bank = make(130, 40, seed=1), make(num_rows, 40)  # type: ignore[operator]

    distances, indices = nearest(queries, bank, k)

    expected_distances, expected_indices = brute_force(queries, bank, k)
    assert torch.equal(indices, expected_indices)
    torch.testing.assert_close(distances.double(), expected_distances, rtol=1e-6, atol=0)


def test_exact_search_equals_brute_force_over_several_tiles_of_queries() -> None:
    queries, bank = like_features(2500, 24, seed=1), like_features(700, 24)

    distances, indices = nearest(queries, bank, 2)

    expected_distances, expected_indices = brute_force(queries, bank, 2)
    assert torch.equal(indices, expected_indices)
    torch.testing.assert_close(distances.double(), expected_distances, rtol=1e-6, atol=0)


def test_very_many_rows_equally_far_are_searched_in_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    search = Index._search_in_float64

    def counted(self: Index, queries: Tensor, k: int) -> Tensor:
        asked.append(len(queries))
        return search(self, queries, k)

    monkeypatch.setattr(Index, "_search_in_float64", counted)
    monkeypatch.setattr("ad.memory.screening._MOST", 8)  # what is left to others, is found by them
    bank = like_features(1200, 24)
    bank[300:1000] = bank[300]  # a flat background: more equal rows than are ever looked at
    queries = torch.cat([bank[300] + 1e-3 * noise(60, 24), like_features(60, 24, seed=1)])

    for k in (1, 5):
        distances, _ = nearest(queries, bank, k)
        expected, _ = brute_force(queries, bank, k)
        torch.testing.assert_close(distances.double(), expected, rtol=1e-6, atol=0)

    assert asked
    assert max(asked) <= len(queries)


def test_searches_of_several_threads_leave_the_precision_as_it_was() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    queries, bank = like_features(200, 24, seed=1), like_features(3000, 24)
    expected, _ = nearest(queries, bank, 1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: nearest(queries, bank, 1), range(8)))
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    for distances, _ in found:
        assert torch.equal(distances, expected)


def test_exact_search_proves_most_queries_with_the_first_bound(way: str) -> None:
    if way == "as a small bank":
        pytest.skip("has one bound only")
    # Otherwise that bound is work for nothing, and the cheap way goes untested.
    index = Index(like_features(3000, 40))
    queries = like_features(500, 40, seed=1)

    first, full = index.bounds
    found = index._look(queries, *first.least_of_groups(queries, index.groups), 1, 63)

    assert first.rows.shape[1] < full.rows.shape[1] / 2
    assert found.proven.float().mean() > 0.9


def test_first_bound_exceeds_no_distance(way: str) -> None:
    if way == "as a small bank":
        pytest.skip("has one bound only")
    bank, queries = like_features(400, 40), like_features(60, 40, seed=1)
    index = Index(bank)

    least, margin = index.bounds[0].least_of_groups(queries, index.groups)

    squares = (queries.double()[:, None] - bank.double()).square().sum(2)
    least_of_groups = squares.view(60, 4, index.groups).amin(1)
    assert ((least - margin[:, None]) <= least_of_groups).all()


def test_a_row_of_the_bank_is_at_distance_zero_from_itself() -> None:
    # 1000 off the origin the textbook |a|^2 - 2 a b + |b|^2 has an error of about 0.5 here.
    bank = 1000 + noise(500, 30)

    distances, indices = nearest(bank, bank, 1)

    assert torch.equal(distances, torch.zeros(500, 1))
    assert torch.equal(indices[:, 0], torch.arange(500))


def _one_far(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.full((1, 24), 6e4)])  # near the end of float16


@pytest.mark.parametrize("make_bank", [
    lambda rows: rows.repeat(4, 1),
    lambda rows: torch.zeros_like(rows),
    lambda rows: torch.cat([torch.zeros(300, 24), rows]),
    _one_far,
    lambda rows: rows * 1e13,
    lambda rows: rows * 1e-4,
    lambda rows: rows * 1e-18,
    lambda rows: rows.round(),
])  # fmt: skip
@pytest.mark.parametrize("k", [1, 3])
def test_no_bank_has_a_nearer_row_than_was_found(make_bank: object, k: int) -> None:
    bank = make_bank(like_features(600, 24))  # type: ignore[operator]
    scale = bank.abs().max().clamp_min(1e-3)
    queries = torch.cat(
        [bank[:40], bank[::25] + 0.02 * scale * noise(len(bank[::25]), 24, seed=1),
         torch.zeros(1, 24), torch.full((1, 24), 1e14), 3 * scale * noise(20, 24, seed=2)]
    )  # fmt: skip

    distances, indices = nearest(queries, bank, k)

    expected, _ = brute_force(queries, bank, k)
    own = (queries.double()[:, None] - bank.double()[indices]).norm(dim=2)
    torch.testing.assert_close(distances.double(), expected, rtol=3e-6, atol=0)
    torch.testing.assert_close(own, expected, rtol=3e-6, atol=0)
    assert all(len(set(row)) == k for row in indices.tolist())


def test_exact_search_tells_apart_rows_closer_than_float32_products_can() -> None:
    # 300 rows within 1e-5 of each other, beside others at distances of about 50: all look alike
    # to the matmul, so that every query needs the last resort.
    cluster = 1e-6 * noise(300, 24)
    bank = torch.cat([30 * noise(400, 24, seed=1), cluster])
    queries = cluster[:20] + 1e-7 * noise(20, 24, seed=2)

    distances, indices = nearest(queries, bank, 1)

    expected_distances, expected_indices = brute_force(queries, bank, 1)
    assert torch.equal(indices, expected_indices)
    torch.testing.assert_close(distances.double(), expected_distances, rtol=1e-4, atol=0)


def test_searches_multiply_in_float32_whatever_is_set_and_leave_that_as_it_was() -> None:
    queries, bank = like_features(200, 24, seed=1), like_features(3000, 24)
    expected = nearest(queries, bank, 3)
    settings = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul
    before = [setting.fp32_precision for setting in settings]
    try:
        settings[0].fp32_precision, settings[1].fp32_precision = "bf16", "tf32"
        found = nearest(queries, bank, 3)
        after = [setting.fp32_precision for setting in settings]
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value

    assert after == ["bf16", "tf32"]
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_a_query_that_is_no_number_gives_a_distance_that_is_none() -> None:
    queries = noise(3, 4)
    queries[1] = float("nan")

    distances, _ = nearest(queries, noise(50, 4), 1)

    assert distances[:, 0].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("k", [0, 6])
def test_more_neighbours_than_rows_or_none_are_refused(k: int) -> None:
    message = f"`k` must be between 1 and the number of rows in the bank, 5; got {k}"
    with pytest.raises(SettingError, match=message):
        nearest(noise(2, 3), noise(5, 3), k)


def test_queries_of_another_length_are_refused() -> None:
    with pytest.raises(SettingError, match=r"Queries must be `\[Q, 3\]` like the bank; got \[2, 4"):
        nearest(noise(2, 4), noise(5, 3), 1)


def test_an_empty_bank_is_refused() -> None:
    with pytest.raises(SettingError, match=r"A bank must be `\[M, D\]` with at least one row"):
        nearest(noise(2, 4), noise(0, 4), 1)


def test_memory_answers_from_its_bank_in_half_precision() -> None:
    memory = NearestNeighbors()
    memory.remember(noise(40, 6))
    queries = noise(10, 6, seed=1)

    distances, indices = memory(queries, 2)

    expected_distances, expected_indices = brute_force(queries, noise(40, 6).half(), 2)
    assert memory.bank.dtype == torch.float16
    assert torch.equal(indices, expected_indices)
    torch.testing.assert_close(distances.double(), expected_distances, rtol=1e-6, atol=0)


def test_memory_answers_from_a_bank_it_is_given_later() -> None:
    memory, queries = NearestNeighbors(), noise(10, 6, seed=1)
    memory.remember(noise(40, 6))
    memory(queries)
    other = noise(40, 6, seed=2)

    memory.remember(other)
    remembered = memory(queries)
    memory.load_state_dict({"bank": noise(40, 6).half()})
    loaded = memory(queries)

    assert torch.equal(remembered[1], brute_force(queries, other.half(), 1)[1])
    assert torch.equal(loaded[1], brute_force(queries, noise(40, 6).half(), 1)[1])


def test_memory_ignores_autocast() -> None:
    memory = NearestNeighbors()
    memory.remember(like_features(300, 40))
    queries = like_features(50, 40, seed=1)
    expected = memory(queries)

    with torch.autocast("cpu", torch.bfloat16):
        distances, indices = memory(queries)

    assert torch.equal(distances, expected[0])
    assert torch.equal(indices, expected[1])
