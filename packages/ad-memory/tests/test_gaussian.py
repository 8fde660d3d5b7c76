from __future__ import annotations

import numpy as np
import pytest
import torch

from ad.core import SILENT
from ad.core.errors import DataError, SettingError
from ad.memory.gaussian import PositionGaussians, StoredFit, StreamedFit, start_fit

CPU = torch.device("cpu")
P, D = 4, 20


def correlated(count, *, positions=P, features=D, seed=0, offset=0.0):
    """Samples [positions, count, features] with a covariance far from the identity."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(positions, features, features, generator=generator) / features**0.5
    return torch.randn(positions, count, features, generator=generator) @ mixing + offset


def fitted(fit, samples, eps=0.01, batch=5):
    for part in samples.split(batch, dim=1):
        fit.add(part)
    gaussians = PositionGaussians(eps)
    gaussians.fit(fit)
    return gaussians


def stored(samples, eps=0.01, batch=5):
    positions, count, features = samples.shape
    return fitted(StoredFit(count, positions, features, eps, CPU), samples, eps, batch)


def streamed(samples, eps=0.01, batch=5):
    positions, _, features = samples.shape
    return fitted(StreamedFit(positions, features, eps, CPU), samples, eps, batch)


def explicit_distances(samples, queries, eps=0.01):
    """Float64, an inverse per position."""
    out = []
    for seen, asked in zip(samples.double().numpy(), queries.double().numpy(), strict=True):
        covariance = np.cov(seen, rowvar=False) + eps * np.eye(seen.shape[1])
        gap = asked - seen.mean(axis=0)
        out.append(np.sqrt(np.einsum("bi,ij,bj->b", gap, np.linalg.inv(covariance), gap)))
    return torch.from_numpy(np.stack(out))


def held_bytes(fit):
    return sum(t.nbytes for t in vars(fit).values() if isinstance(t, torch.Tensor))


@pytest.mark.parametrize("count", [12, D, D + 1, 3 * D])
def test_both_ways_agree_with_an_explicit_inverse_in_float64(count):
    samples = correlated(count)
    queries = correlated(7, seed=1)
    expected = explicit_distances(samples, queries)
    for way in (stored, streamed):
        if way is stored and count >= D:  # as many rows as columns: the other way by definition
            continue
        distances = way(samples)(queries).double()
        torch.testing.assert_close(distances, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("count", [2, 3, D - 1])
def test_stored_samples_are_exact_down_to_two_and_up_to_the_number_of_features(count):
    samples, queries = correlated(count), correlated(7, seed=1)
    torch.testing.assert_close(
        stored(samples)(queries).double(),
        explicit_distances(samples, queries),
        rtol=1e-4,
        atol=0,
    )


@pytest.mark.parametrize("way", [stored, streamed])
def test_what_was_seen_itself_is_measured_exactly_along_directions_of_large_variance(way):
    # Here |d|^2 - |R^-1 X d|^2 over eps, in float32, would be wrong in the second digit.
    samples = correlated(12)
    direction = torch.nn.functional.normalize(torch.ones(D), dim=0)
    spread = torch.linspace(-40, 40, 12)[:, None] * direction
    samples = samples * 0.1 + spread
    torch.testing.assert_close(
        way(samples)(samples).double(), explicit_distances(samples, samples), rtol=1e-3, atol=0
    )


def test_the_way_that_stores_less_is_chosen():
    def way(count):
        return type(start_fit(count, P, D, 0.01, CPU))

    assert 12 * (12 + D) < D * D < 13 * (13 + D)
    assert way(12) is StoredFit
    assert way(13) is StreamedFit


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_streamed_covariance_is_that_of_two_passes(offset):
    samples = correlated(90, offset=offset)
    fit = StreamedFit(P, D, 0.01, CPU)
    for part in samples.split(7, dim=1):
        fit.add(part)
    covariance = fit.covariance(slice(1, 3)).numpy()
    for position in (1, 2):
        seen = samples[position].double().numpy()
        expected = np.cov(seen, rowvar=False) + 0.01 * np.eye(D)
        np.testing.assert_allclose(covariance[position - 1], expected, rtol=1e-4, atol=1e-5)


def test_the_sizes_of_training_batches_do_not_matter():
    samples, queries = correlated(50), correlated(3, seed=1)
    expected = streamed(samples, batch=50)(queries)
    for batch in (1, 7, 32, 40):
        torch.testing.assert_close(streamed(samples, batch=batch)(queries), expected)


@pytest.mark.parametrize("way", [stored, streamed])
def test_a_sample_scores_the_same_alone_and_in_a_batch_of_eight(way):
    gaussians, queries = way(correlated(12)), correlated(8, seed=1)
    together = gaussians(queries)
    alone = torch.cat([gaussians(queries[:, i : i + 1]) for i in range(8)], dim=1)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)


def test_many_positions_are_worked_off_in_chunks_without_a_seam(monkeypatch):
    samples, queries = correlated(12, positions=11), correlated(2, positions=11, seed=1)
    expected = [way(samples)(queries) for way in (stored, streamed)]
    monkeypatch.setattr("ad.memory.gaussian._CHUNK_VALUES", 3 * D * D)
    monkeypatch.setattr("ad.memory.gaussian._CACHED_VALUES", 2 * D * D)
    for way, whole in zip((stored, streamed), expected, strict=True):
        torch.testing.assert_close(way(samples)(queries), whole)


@pytest.mark.parametrize(("way", "matmuls"), [(streamed, 1), (stored, 3)])
def test_distances_are_exported_without_chunks(monkeypatch, way, matmuls):
    gaussians, queries = way(correlated(12)), correlated(3, seed=1)
    monkeypatch.setattr("ad.memory.gaussian._CACHED_VALUES", 1)
    program = torch.export.export(gaussians, (queries,))
    torch.testing.assert_close(program.module()(queries), gaussians(queries))
    names = [str(node.target) for node in program.graph.nodes]
    assert sum("bmm" in name for name in names) == matmuls


def test_memory_of_streamed_sums_does_not_grow_with_the_samples():
    fit = StreamedFit(P, D, 0.01, CPU)
    fit.add(correlated(40))
    after_40 = held_bytes(fit)
    for seed in range(10):
        fit.add(correlated(40, seed=seed))
    assert fit.count == 440
    assert held_bytes(fit) == after_40


def test_memory_of_stored_samples_is_that_of_samples_and_their_products():
    fit = StoredFit(12, P, D, 0.01, CPU)
    fit.add(correlated(12))
    assert held_bytes(fit) == 4 * P * 12 * (D + 12)


def test_fewer_samples_than_announced_are_no_harm():
    samples, queries = correlated(9), correlated(3, seed=1)
    gaussians = fitted(StoredFit(12, P, D, 0.01, CPU), samples)
    torch.testing.assert_close(
        gaussians(queries).double(), explicit_distances(samples, queries), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("eps", [0.0, -1.0, float("nan")])
def test_eps_must_be_positive(eps):
    with pytest.raises(SettingError, match=r"`eps` must be a positive number, such as 0.01; got"):
        PositionGaussians(eps)


def test_one_picture_is_too_few():
    message = r"at least 2 normal pictures; got 1\. Add pictures"
    with pytest.raises(DataError, match=message):
        start_fit(1, P, D, 0.01, CPU)
    for fit in (StreamedFit(P, D, 0.01, CPU), StoredFit(12, P, D, 0.01, CPU)):
        fit.add(correlated(1))
        with pytest.raises(DataError, match=message):
            fit.finish(SILENT)


def test_more_samples_than_announced_are_refused():
    fit = StoredFit(3, P, D, 0.01, CPU)
    with pytest.raises(DataError, match="3 samples were announced for each position; got 4"):
        fit.add(correlated(4))


@pytest.mark.parametrize("way", [stored, streamed])
def test_an_eps_that_rounding_swallows_is_an_error(way):
    samples = correlated(12) * 1e6
    samples[..., 1:] = samples[..., :1]  # rank one
    with pytest.raises(SettingError, match="`eps` = 1e-30 is too small .* Raise it; 0.01 is usual"):
        way(samples, eps=1e-30)
