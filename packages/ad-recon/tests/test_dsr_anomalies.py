"""How DSR breaks codes: which ones, where, and by what."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_dsr import SIZE, generators, images, noise

from ad.recon.dsr import anomalies
from ad.recon.dsr.anomalies import break_codes, candidate_ranks, codes_at_ranks, exchange
from ad.recon.dsr.vq import VqModel, tokens


def test_ranks_to_choose_from_are_those_of_the_authors():
    first, last = candidate_ranks(4096, torch.tensor([0.05, 0.2, 0.5, 0.9999, 1.0]))
    assert first == 204
    assert last.tolist() == [205, 820, 2049, 4095, 4095]
    for num_codes in range(3, 300):
        first, last = candidate_ranks(num_codes, torch.linspace(0.0500001, 1, 50))
        assert 1 <= first < last.min()  # the nearest would break nothing
        assert last.max() < num_codes


def test_a_code_of_a_rank_is_that_of_a_full_ranking(monkeypatch):
    monkeypatch.setattr(anomalies, "_TILE", 7)
    features, codes = noise(30, 4), noise(50, 4, seed=1)
    ranks = torch.randint(50, (30,), generator=torch.Generator().manual_seed(2))
    gaps = ((features.double()[:, None] - codes.double()) ** 2).sum(2).numpy()
    expected = [int(np.argsort(row)[rank]) for row, rank in zip(gaps, ranks, strict=True)]
    assert codes_at_ranks(features, codes, ranks).tolist() == expected


def test_only_masked_codes_are_exchanged_for_ones_of_the_rank_that_was_drawn():
    b, e, h, w, k = 3, 4, 5, 6, 100
    features, quantized, codes = noise(b, e, h, w), noise(b, e, h, w, seed=1), noise(k, e, seed=2)
    source = torch.Generator().manual_seed(3)
    masks = (torch.rand(b, 1, h, w, generator=source) < 0.4).float()
    shares, draws = torch.tensor([0.2, 0.55, 1.0]), torch.rand(b, h * w, generator=source)
    before = quantized.clone()
    broken = exchange(features, quantized, codes, masks, shares, draws)
    for row, y, x in np.ndindex(b, h, w):
        expected = quantized[row, :, y, x]
        if masks[row, 0, y, x]:
            gaps = ((codes.double() - features[row, :, y, x].double()) ** 2).sum(1).numpy()
            last = min(max(math.floor(shares[row] * k) + 1, 1), k - 1)
            rank = 5 + math.floor(draws[row, y * w + x] * (last - 5))
            assert 5 <= rank < last
            expected = codes[int(np.argsort(gaps)[rank])]
        assert torch.equal(broken[row, :, y, x], expected)
    assert torch.equal(quantized, before)
    assert torch.equal(exchange(features, quantized, codes, 0 * masks, shares, draws), quantized)


def test_a_number_next_to_1_draws_the_last_rank_and_none_behind_it():
    """In float32 the product with 3,891 ranks is rounded up to the end."""
    codes = torch.arange(4096.0)[:, None]  # ranks, seen from 0
    most = torch.tensor([[1 - 2.0**-24]])
    here = torch.zeros(1, 1, 1, 1)
    found = exchange(here, here, codes, torch.ones(1, 1, 1, 1), torch.ones(1), most)
    assert found.item() == 4094


def masks_of_every_kind(count):
    """The picture's left half, for all but the first, which is not masked."""
    masks = torch.zeros(count, 1, SIZE, SIZE)
    masks[1:, :, 8:24, 12:28] = 1
    return masks


@pytest.fixture(scope="module")
def broken():
    """Codes of 40 pictures, broken."""
    torch.manual_seed(0)
    model = VqModel(8, 64, 4).eval()
    some, masks = images(40), masks_of_every_kind(40)
    return model, some, masks, break_codes(model, some, masks, generators(40), strength=0.2)


def test_codes_of_one_map_or_of_both_are_broken_where_the_mask_is(broken):
    model, some, masks, found = broken
    with torch.no_grad():
        clean = model.encode(some)
    assert torch.equal(found.clean.lo, clean.lo)
    assert torch.equal(found.clean.hi, clean.hi)
    at_lo = (found.codes.lo != clean.lo).any(1, keepdim=True)  # [B, 1, h, w]
    at_hi = (found.codes.hi != clean.hi).any(1, keepdim=True)
    pooled_lo, pooled_hi = F.max_pool2d(masks, 8) > 0, F.max_pool2d(masks, 4) > 0
    kinds = {"both": 0, "lo": 0, "hi": 0}
    for row in range(1, 40):
        lo, hi = bool(at_lo[row].any()), bool(at_hi[row].any())
        kind = "both" if lo and hi else "lo" if lo else "hi"
        kinds[kind] += 1
        assert not (at_lo[row] & ~pooled_lo[row]).any()
        if kind != "both":  # where fine codes follow from coarse ones that reach further
            assert not (at_hi[row] & ~pooled_hi[row]).any()
        pooled, side = (pooled_hi, 4) if kind == "hi" else (pooled_lo, 8)
        squares = pooled[row, 0].repeat_interleave(side, 0).repeat_interleave(side, 1)
        assert torch.equal(found.masks[row, 0], squares.float())
    assert kinds["both"] > 10
    assert min(kinds["lo"], kinds["hi"]) > 3
    for unbroken in (found.masks[0], at_lo[0], at_hi[0]):
        assert not unbroken.any()


def test_a_picture_is_broken_the_same_in_any_batch(broken):
    model, some, masks, found = broken
    for row in range(6):
        alone = break_codes(
            model, some[row : row + 1], masks[row : row + 1], generators(1, row), strength=0.2
        )
        assert torch.equal(alone.codes.lo[0], found.codes.lo[row])
        assert torch.equal(alone.codes.hi[0], found.codes.hi[row])
        assert torch.equal(alone.masks[0], found.masks[row])


def test_broken_codes_are_of_the_ranks_that_the_strength_allows(broken):
    model, some, masks, found = broken
    with torch.no_grad():
        encoded = model.encoder_hi(some)
        features = tokens(model.features_lo(encoded)).double()
    codes = model.quantizer_lo.codes
    changed = (found.codes.lo != found.clean.lo).any(1).flatten()
    ranks = []
    for feature, code in zip(features[changed], tokens(found.codes.lo)[changed], strict=True):
        order = (codes.double() - feature).square().sum(1).argsort().tolist()
        ranks.append(order.index(int((codes == code).all(1).nonzero()[0])))
    assert min(ranks) >= 3
    assert max(ranks) < 63
    assert max(ranks) > 40  # strengths are up to 1 ...
    assert np.mean(ranks) < 30  # ... and not all are 1


def test_where_both_are_broken_fine_codes_follow_from_broken_coarse_ones(broken):
    model, some, masks, found = broken
    with torch.no_grad():
        encoded = model.encoder_hi(some)
        for row in range(1, 40):
            if torch.equal(found.codes.lo[row], found.clean.lo[row]):
                continue
            one = slice(row, row + 1)
            followed = model.quantizer_hi(model.features_hi(encoded[one], found.codes.lo[one]))[0]
            if torch.equal(found.codes.hi[row], found.clean.hi[row]):
                continue  # of the coarse map alone
            outside = F.max_pool2d(masks[row], 4)[0] == 0
            assert torch.equal(found.codes.hi[row][:, outside], followed[:, outside])
