from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ad.core.errors import DataError, SettingError
from ad.memory import picking
from ad.memory.coreset import (
    k_center_greedy,
    k_center_greedy_of_folds,
    k_means_medoids,
    project,
    random_rows,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clusters(num_rows: int, num_features: int) -> Tensor:
    """Rows close to one of ten far centres."""
    centres = 30 * noise(10, num_features, seed=1)
    return centres[torch.arange(num_rows) % 10] + 0.1 * noise(num_rows, num_features)


def with_duplicates(num_rows: int, num_features: int) -> Tensor:
    return noise(-(-num_rows // 3), num_features).repeat(3, 1)[:num_rows]


def whole_numbers(num_rows: int, num_features: int) -> Tensor:
    """Rows on a small grid: most distances occur many times."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 3, (num_rows, num_features), generator=generator).float()


def by_the_rule(features: Tensor, n: int, *, seed: int, start: int) -> list[int]:
    """The documented rule in numpy float64: Euclidean distances, one pick at a time."""
    z = features.double().numpy()
    generator = torch.Generator().manual_seed(seed)
    first = torch.randperm(len(z), generator=generator)[:start].numpy()
    key = np.mean([np.sqrt(((z - z[s]) ** 2).sum(1)) for s in first], axis=0)
    picks = []
    for _ in range(n):
        # Sums of different order must not break ties: compare 10 digits.
        picks.append(int(np.argmax(np.round(key, 10))))
        key = np.minimum(key, np.sqrt(((z - z[picks[-1]]) ** 2).sum(1)))
        key[picks] = -1
    return picks


@pytest.mark.parametrize("make", [noise, clusters, with_duplicates, whole_numbers])
@pytest.mark.parametrize(("num_rows", "n"), [(1, 1), (7, 7), (300, 1), (300, 120), (300, 300)])
def test_greedy_picks_are_those_of_the_rule(make: object, num_rows: int, n: int) -> None:
    features = make(num_rows, 5)  # type: ignore[operator]

    picks = k_center_greedy(features, n, seed=3)

    assert picks.tolist() == by_the_rule(features, n, seed=3, start=10)


def test_greedy_picks_stay_those_of_the_rule_when_most_rows_are_left_outdated() -> None:
    # More rows than are brought up to date or picked among at once, in several turns.
    features = torch.cat([noise(9000, 3), clusters(1000, 3)])

    picks = k_center_greedy(features, 1500, seed=1, start=4)

    assert picks.tolist() == by_the_rule(features, 1500, seed=1, start=4)


def test_greedy_takes_the_first_of_equal_rows_whether_it_is_up_to_date_or_not() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randint(0, 40, (6000, 2), generator=generator).float()  # all keys many times

    picks = k_center_greedy(features, 500, seed=1, start=4)

    assert picks.tolist() == by_the_rule(features, 500, seed=1, start=4)


def few_axes(num_rows: int, num_features: int) -> Tensor:
    """Rows with most of their variance in some axes, and each of them twice."""
    variance = torch.arange(1, num_features + 1).float().pow(-1.5)
    mixing = torch.linalg.qr(noise(num_features, num_features, seed=7)).Q
    return (noise(-(-num_rows // 2), num_features) * variance @ mixing).repeat(2, 1)[:num_rows]


def sphere(num_rows: int, num_features: int) -> Tensor:
    """The first half on a sphere but for less than bfloat16 tells, the others at its centre."""
    radius = 1 + 1e-4 * noise(num_rows, 1, seed=2)
    radius[num_rows // 2 :] *= 1e-4
    return radius * torch.nn.functional.normalize(noise(num_rows, num_features))


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=str)
def bounds_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are never lowered by a matmul in float64; products are of one type."""
    monkeypatch.setattr(picking, "FEW", 0)
    monkeypatch.setattr(picking, "_DIRECT", 0)
    monkeypatch.setattr(picking, "_fastest", lambda device: request.param)


@pytest.mark.usefixtures("bounds_alone")
@pytest.mark.parametrize("make", [noise, clusters, with_duplicates, whole_numbers, few_axes])
def test_greedy_picks_by_bounds_alone_are_those_of_the_rule(make: object) -> None:
    features = make(1200, 96)  # type: ignore[operator]

    picks = k_center_greedy(features, 400, seed=3)

    assert picks.tolist() == by_the_rule(features, 400, seed=3, start=10)


@pytest.mark.usefixtures("bounds_alone")
@pytest.mark.parametrize(
    ("make", "num_features"),
    [(noise, 96), (clusters, 96), (whole_numbers, 96), (few_axes, 96), (sphere, 3)],
)
def test_keys_by_bounds_alone_are_the_least_squared_distances(
    make: object, num_features: int
) -> None:
    features = make(700, num_features)  # type: ignore[operator]
    rows = picking.Rows(features)
    picks = picking.Picks(rows, 330)
    key = torch.full((700,), 2.0**46, dtype=torch.float64)
    some, others = torch.arange(0, 700, 2), torch.arange(700)

    picks.add(torch.arange(0, 30))
    picks.bring_up_to_date(key, some)  # so that rows lack different picks
    picks.add(torch.arange(30, 330))
    picks.bring_up_to_date(key, others)

    z = features.double().numpy() * rows.scale
    square = [((z - z[pick]) ** 2).sum(1) for pick in range(330)]
    np.testing.assert_allclose(key.numpy(), np.min(square, axis=0), rtol=0, atol=0.51)


def test_greedy_picks_are_those_that_float64_alone_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    # Half by bounds, half by a matmul in float64 after bounds that left too many pairs close.
    monkeypatch.setattr(picking, "FEW", 0)
    monkeypatch.setattr(picking, "_DIRECT", 120)

    picks = k_center_greedy(few_axes(6000, 64), 700, seed=2)

    assert picks[:6].tolist() == [23, 1275, 1270, 2646, 1457, 2376]
    assert picks[-3:].tolist() == [2322, 1865, 1954]
    assert int((picks * torch.arange(1, 701)).sum()) == 371_871_031


def folds_without(parts: list[int]) -> list[Tensor]:
    """Numbers of all rows but those of each part, whose lengths are given."""
    owner = torch.arange(len(parts)).repeat_interleave(torch.tensor(parts))
    return [(owner != part).nonzero()[:, 0] for part in range(len(parts))]


@pytest.mark.parametrize("make", [noise, clusters, with_duplicates, whole_numbers])
@pytest.mark.parametrize(
    "parts", [[60, 60, 60, 60, 60], [1, 1, 1], [1, 250, 3, 46], [150, 150]], ids=str
)
def test_picks_of_folds_are_those_of_each_alone(make: object, parts: list[int]) -> None:
    features = make(sum(parts), 5)  # type: ignore[operator]
    folds = folds_without(parts)
    counts = [max(1, len(own) // (2 + number)) for number, own in enumerate(folds)]

    found = list(k_center_greedy_of_folds(features, folds, counts, seed=3, start=4))

    for own, count, picks in zip(folds, counts, found, strict=True):
        assert torch.equal(picks, k_center_greedy(features[own], count, seed=3, start=4))
        assert picks.tolist() == by_the_rule(features[own], count, seed=3, start=4)


@pytest.mark.usefixtures("bounds_alone")
def test_picks_of_folds_by_bounds_that_they_share_are_those_of_the_rule() -> None:
    features = torch.cat([few_axes(900, 64), clusters(300, 64)])
    folds = folds_without([300, 400, 500])

    found = list(k_center_greedy_of_folds(features, folds, [300, 200, 250]))

    for own, picks in zip(folds, found, strict=True):
        assert picks.tolist() == by_the_rule(features[own], len(picks), seed=0, start=10)


def test_a_fold_rounds_by_its_own_rows_not_by_those_that_it_has_not() -> None:
    # Beside a row so far away distances of all others are rounded to 0: then the first are picked.
    features = noise(300, 5)
    features[7] = 1e9
    folds = folds_without([100, 100, 100])

    first, *others = k_center_greedy_of_folds(features, folds, [150, 150, 150])

    assert first.tolist() == by_the_rule(features[folds[0]], 150, seed=0, start=10)
    for own, picks in zip(folds[1:], others, strict=True):
        assert torch.equal(picks, k_center_greedy(features[own], 150))


def test_folds_far_apart_are_not_measured_from_between_them() -> None:
    features = noise(200, 5).double()
    features[100:] += 1e9  # half of that squared leaves float64 no digits for distances near 1
    folds = folds_without([100, 100])

    found = list(k_center_greedy_of_folds(features, folds, [50, 50]))

    for own, picks in zip(folds, found, strict=True):
        assert torch.equal(picks, k_center_greedy(features[own], 50))


def test_a_fold_of_fewer_rows_than_are_asked_for_is_refused() -> None:
    with pytest.raises(SettingError, match="between 1 and the number of rows, 4; got 5"):
        list(k_center_greedy_of_folds(noise(6, 2), folds_without([2, 2, 2]), [4, 5, 4]))


def test_greedy_picks_do_not_depend_on_where_the_features_lie() -> None:
    # Whole numbers, so that moving them is exact in float32.
    features = whole_numbers(400, 6)

    assert torch.equal(k_center_greedy(features + 4096, 200), k_center_greedy(features, 200))


def test_greedy_accepts_half_precision_and_leaves_the_features_alone() -> None:
    features = noise(200, 8).half()
    before = features.clone()

    picks = k_center_greedy(features, 50)

    assert torch.equal(picks, k_center_greedy(features.double(), 50))
    assert torch.equal(features, before)


def test_greedy_start_rows_are_drawn_from_the_seed() -> None:
    features = noise(300, 4)

    assert torch.equal(k_center_greedy(features, 20, seed=5), k_center_greedy(features, 20, seed=5))
    assert not torch.equal(
        k_center_greedy(features, 20, seed=5, start=1),
        k_center_greedy(features, 20, seed=6, start=1),
    )


def test_greedy_takes_rows_that_are_all_equal_in_their_order() -> None:
    assert k_center_greedy(torch.ones(6000, 3), 5000).tolist() == list(range(5000))


@pytest.mark.parametrize("select", [k_center_greedy, k_means_medoids])
def test_selection_reports_every_pick_once(select: object) -> None:
    reported: list[int] = []

    select(noise(300, 4), 130, advance=reported.append)  # type: ignore[operator]

    assert sum(reported) == 130
    assert min(reported) >= 0


def test_medoids_are_the_rows_nearest_to_the_centres_of_clear_clusters() -> None:
    features = clusters(200, 4)

    medoids = k_means_medoids(features, 10, seed=2, iterations=30)

    # Lloyd may join two of the clusters, so each medoid is checked against its own members.
    labels = torch.cdist(features, features[medoids]).argmin(1)
    for number, medoid in enumerate(medoids.tolist()):
        members = (labels == number).nonzero()[:, 0]
        centre = features[members].mean(0)
        nearest = members[(features[members] - centre).norm(dim=1).argmin()]
        assert medoid == nearest


@pytest.mark.parametrize("make", [noise, with_duplicates])
@pytest.mark.parametrize("n", [1, 40, 90])
def test_medoids_are_distinct_rows_even_if_clusters_end_empty(make: object, n: int) -> None:
    medoids = k_means_medoids(make(90, 3), n)  # type: ignore[operator]

    assert len(set(medoids.tolist())) == n
    assert medoids.min() >= 0
    assert medoids.max() < 90


def test_medoids_cover_closer_on_average_than_random_rows() -> None:
    features = noise(600, 4)

    def mean_cover(chosen: Tensor) -> float:
        return torch.cdist(features, features[chosen]).min(1).values.mean().item()

    assert mean_cover(k_means_medoids(features, 30)) < mean_cover(random_rows(features, 30))


def test_random_rows_are_distinct_and_come_from_the_seed() -> None:
    features = noise(50, 2)

    rows = random_rows(features, 50, seed=1)

    assert sorted(rows.tolist()) == list(range(50))
    assert torch.equal(rows[:20], random_rows(features, 20, seed=1))
    assert not torch.equal(rows, random_rows(features, 50, seed=2))


def test_projection_keeps_squared_distances_on_average() -> None:
    features = noise(60, 500)

    projected = project(features.half(), num_dims=128, seed=4)

    before, after = torch.pdist(features).square(), torch.pdist(projected).square()
    ratio = after / before
    assert projected.shape == (60, 128)
    assert ratio.mean().item() == pytest.approx(1, abs=0.03)
    assert ratio.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.2)


def test_projection_is_repeatable_and_linear_over_tiles() -> None:
    features = noise(9000, 20)

    projected = project(features, num_dims=4, seed=1)

    assert torch.equal(projected, project(features, num_dims=4, seed=1))
    torch.testing.assert_close(projected[8990:], project(features[8990:], num_dims=4, seed=1))


def test_projection_leaves_rows_of_few_dimensions_alone() -> None:
    features = noise(5, 128)

    assert torch.equal(project(features, num_dims=128), features)


@pytest.mark.parametrize("select", [k_center_greedy, k_means_medoids, random_rows])
@pytest.mark.parametrize("n", [0, 6])
def test_more_rows_than_there_are_or_none_are_refused(select: object, n: int) -> None:
    with pytest.raises(
        SettingError, match=f"`n` must be between 1 and the number of rows, 5; got {n}"
    ):
        select(noise(5, 2), n)  # type: ignore[operator]


def test_values_that_are_no_numbers_are_refused_with_their_row() -> None:
    features = noise(8, 2)
    features[3, 1] = float("nan")

    with pytest.raises(DataError, match=r"`features` must be finite numbers; row 3 has others"):
        k_center_greedy(features, 2)


def test_settings_below_one_are_refused() -> None:
    with pytest.raises(SettingError, match=r"`start` must be at least 1; got 0"):
        k_center_greedy(noise(5, 2), 2, start=0)
    with pytest.raises(SettingError, match=r"`iterations` must be at least 1; got 0"):
        k_means_medoids(noise(5, 2), 2, iterations=0)
    with pytest.raises(SettingError, match=r"`num_dims` must be at least 1; got 0"):
        project(noise(5, 2), num_dims=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_greedy_picks_on_a_gpu_are_those_of_the_cpu() -> None:
    features = noise(20000, 16)

    picks = k_center_greedy(features.cuda(), 2000).cpu()

    assert torch.equal(picks, k_center_greedy(features, 2000))
