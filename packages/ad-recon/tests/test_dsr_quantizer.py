"""DSR's quantiser: the nearest codes, and how codes follow what they stand for."""

import numpy as np
import pytest
import torch
import warm
from small_dsr import noise

from ad.recon.dsr import vq
from ad.recon.dsr.vq import CodeAverages, Quantizer, nearest_codes, tokens


@pytest.mark.parametrize("num_codes", [7, 512, 1300])
def test_the_nearest_code_is_that_of_brute_force(num_codes):
    features, codes = noise(300, 6), noise(num_codes, 6, seed=1)
    gaps = np.linalg.norm(features.double().numpy()[:, None] - codes.double().numpy(), axis=2)
    assert nearest_codes(features, codes).tolist() == gaps.argmin(axis=1).tolist()


def test_of_equal_codes_the_first_is_taken():
    codes = noise(1, 4).expand(1100, 4)
    assert nearest_codes(noise(3, 4, seed=1), codes).tolist() == [0, 0, 0]


def test_all_distances_are_never_in_memory_together(monkeypatch):
    seen = []
    plain = vq.distances
    monkeypatch.setattr(vq, "distances", lambda f, c: seen.append(len(c)) or plain(f, c))
    nearest_codes(noise(5, 4), noise(1300, 4))
    assert seen == [512, 512, 276]


def test_quantising_gives_codes_and_passes_gradients_as_they_are():
    quantizer = Quantizer(6, 32)
    features = noise(2, 6, 3, 5).requires_grad_()
    upstream = noise(2, 6, 3, 5, seed=1)
    quantized = quantizer(features)
    for b, y, x in np.ndindex(2, 3, 5):
        gaps = (quantizer.codes.double() - features[b, :, y, x].double()).square().sum(1)
        assert torch.equal(quantized[b, :, y, x], quantizer.codes[gaps.argmin()])
    (quantized * upstream).sum().backward()
    assert torch.equal(features.grad, upstream)


def test_codes_are_looked_up_in_float32_under_autocast():
    quantizer = Quantizer(6, 200)
    features = noise(2, 6, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer(features)
    assert found.dtype == torch.float32
    assert torch.equal(found, quantizer(features))


def test_codes_follow_the_moving_average_of_what_they_stand_for():
    quantizer, averages = Quantizer(3, 5), CodeAverages(3, 5)
    quantizer.codes.copy_(noise(5, 3))
    averages.idle.zero_()
    averages.counts.copy_(torch.tensor([4.0, 2.0, 0.5, 1.0, 3.0]))
    averages.sums.copy_(quantizer.codes * averages.counts[:, None])
    codes = quantizer.codes.double().numpy().copy()
    counts, sums = averages.counts.double().numpy().copy(), averages.sums.double().numpy().copy()
    for step in range(3):
        features = noise(2, 3, 4, 2, seed=10 + step)
        rows = features.permute(0, 2, 3, 1).reshape(-1, 3).double().numpy()
        nearest = [int(((codes - row) ** 2).sum(1).argmin()) for row in rows]
        quantized = averages.quantize(quantizer, features, patience=100)
        expected = codes[nearest].reshape(2, 4, 2, 3).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(quantized, expected, rtol=1e-5)
        for k in range(5):
            own = rows[[n == k for n in nearest]]
            counts[k] = 0.99 * counts[k] + 0.01 * len(own)
            sums[k] = 0.99 * sums[k] + 0.01 * own.sum(0)
        total = counts.sum()
        codes = sums / ((counts + 1e-5) / (total + 5e-5) * total)[:, None]
        np.testing.assert_allclose(quantizer.codes, codes, rtol=1e-5)


def test_the_first_step_puts_every_code_where_a_cell_is():
    quantizer, averages = Quantizer(3, 40), CodeAverages(3, 40)
    features = noise(2, 3, 8, 8)
    torch.manual_seed(0)
    quantized = averages.quantize(quantizer, features, patience=10)
    cells = {tuple(row) for row in tokens(features).tolist()}
    assert {tuple(row) for row in tokens(quantized).tolist()} <= cells
    assert averages.idle.isfinite().all()


def test_codes_without_use_start_anew_where_cells_are_and_no_other_does():
    quantizer, averages = Quantizer(2, 3), CodeAverages(2, 3)
    averages.idle.zero_()
    averages.counts.fill_(1)
    quantizer.codes.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [50.0, 50.0]]))
    averages.sums.copy_(quantizer.codes)
    features = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).T.view(1, 2, 1, 2)
    for used in range(4):
        assert averages.idle.tolist() == [0, 0, used]
        averages.quantize(quantizer, features, patience=4)
        torch.testing.assert_close(quantizer.codes[2], torch.full((2,), 50.0), rtol=1e-2, atol=0)
    before = quantizer.codes.clone()
    averages.quantize(quantizer, features, patience=4)
    torch.testing.assert_close(quantizer.codes[:2], before[:2], rtol=1e-3, atol=1e-3)
    assert quantizer.codes[2].max() < 1.1
    assert (averages.idle < 4).all()


def test_learning_codes_quantises_as_the_quantiser_does_and_passes_gradients():
    quantizer, averages = Quantizer(3, 8), CodeAverages(3, 8)
    averages.idle.zero_()
    features = noise(1, 3, 4, 4).requires_grad_()
    expected = quantizer(features).detach()
    found = averages.quantize(quantizer, features, patience=10)
    assert torch.equal(found, expected)
    found.sum().backward()
    assert (features.grad == 1).all()


TOGETHER = """
import torch
from ad.core.learning.distributed import end_process, join_world
from ad.recon.dsr.vq import CodeAverages, Quantizer

world = join_world()
quantizer, averages = Quantizer(3, 8), CodeAverages(3, 8)
averages.quantize(quantizer, torch.full((2, 3, 4, 4), 1.0 - 2 * world.rank), patience=10)
world.average_buffers([quantizer, averages], 0.5)
# All codes started at cells of the first process. The other's cells are as near to each of them,
# and were counted for the first code.
torch.testing.assert_close(quantizer.codes[1:], torch.ones(7, 3), atol=1e-3, rtol=0)
end_process(0)
"""


def test_codes_start_anew_in_the_same_place_in_all_processes(tmp_path):
    said = tmp_path / "said"
    assert warm.run_together(TOGETHER, said=said) == [0, 0], said.read_text()
