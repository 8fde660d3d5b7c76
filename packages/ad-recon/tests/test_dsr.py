"""DSR: its quantiser, how codes are broken, its three phases, and where a quantiser comes from."""

import hashlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from ad.core.callbacks import Callback
from ad.core.checkpoints import Checkpoints
from ad.core.data.batches import PictureSet, to_device
from ad.core.data.learning import LearningBatch
from ad.core.errors import DataError, NotFittedError, SettingError, WeightsError
from ad.core.files import load_tensors, read_model, save_model
from ad.core.loop import fit
from ad.core.testing.pictures import make_picture
from ad.core.trainer import FROM_MODEL_FILE, Setup
from ad.recon.dsr import anomalies, vq
from ad.recon.dsr.anomalies import break_codes, candidate_ranks, codes_at_ranks, exchange
from ad.recon.dsr.network import DsrDetector, restriction
from ad.recon.dsr.trainer import ENOUGH_STEPS, DsrTrainer
from ad.recon.dsr.vq import CodeAverages, Codes, Quantizer, Residual, VqModel, nearest_codes, tokens
from ad.recon.dsr.weights import load_quantizer
from ad.recon.focal import focal_loss
from ad.recon.models import DSR

SIZE = 64
SMALL = {"embedding_dim": 8, "num_embeddings": 32, "width": 4}


def trainer(options=None, **changes):
    values = {"img_size": SIZE, "normalize": False, "batch_size": 2, **changes}
    return DsrTrainer(Setup(**values), **{**SMALL, "vq_steps": 3, **(options or {})})


def trained(**changes):
    """A detector that gives scores, of random weights."""
    one = trainer(**changes)
    one.prepare(None)
    return one.detector


def pictures(count=5, *, start=0):
    return PictureSet([make_picture(start + i, size=SIZE)[0] for i in range(count)], SIZE)


def images(count=4, *, start=0):
    (batch,) = pictures(count, start=start).batches(count)
    return to_device(batch.pictures, torch.device("cpu"))


def batch_of(images, step=0, seed=0):
    indices = tuple(range(len(images)))
    return LearningBatch(images=images, frozen=(), indices=indices, epoch=0, seed=seed, step=step)


def generators(count, start=0):
    return [torch.Generator().manual_seed(start + row) for row in range(count)]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def learnt(trainer):
    return {
        f"{owner}.{name}": tensor.clone()
        for owner, module in trainer.modules().items()
        for name, tensor in module.state_dict().items()
    }


def count(module):
    return sum(p.numel() for p in module.parameters())


# The networks


def test_parameters_are_those_of_the_authors():
    with torch.device("meta"):
        detector = DsrDetector(embedding_dim=128, num_embeddings=4096, width=64, precision="fp32")
    # In the authors' quantiser the codes of both levels and their moving sums are parameters.
    assert count(detector.vq) + 2 * 2 * 4096 * 128 == 4_021_379
    assert count(detector.restrict_lo) == count(detector.restrict_hi) == 7_818_240
    assert count(detector.decoder) == 9_418_371
    assert count(detector.detection) == 5_610_690
    assert count(detector.refinement) == 5_611_842


def test_maps_of_codes_have_the_papers_sizes():
    detector = DsrDetector(embedding_dim=128, num_embeddings=16, width=2, precision="fp32")
    with torch.no_grad():
        codes = detector.vq.encode(torch.zeros(1, 3, 256, 256))
        restored = detector.restore(codes)
        assert detector.vq.decode(codes).shape == restored.images.shape == (1, 3, 256, 256)
    for maps in (codes, restored.features, restored.codes):
        assert maps.lo.shape == (1, 128, 32, 32)
        assert maps.hi.shape == (1, 128, 64, 64)


def test_initial_weights_are_those_of_the_authors_and_decoders_start_at_grey():
    torch.manual_seed(0)
    detector = DsrDetector(embedding_dim=16, num_embeddings=8, width=16, precision="fp32")
    for convolution in (detector.decoder[0][0], detector.decoder[5], detector.detection.last):
        assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.1)
    plain = torch.nn.Conv2d(16, 16, 3).weight.std().item()
    assert detector.restrict_lo[0][0].weight.std().item() == pytest.approx(plain, rel=0.1)
    for decoder in (detector.decoder, detector.vq.decoder):
        assert (decoder[-1].bias == 0.5).all()


def test_a_residual_block_carries_on_what_is_positive():
    block = Residual(4).double()
    x = noise(2, 4, 5, 5).double()
    first, second = block.block[0].weight, block.block[2].weight
    expected = F.conv2d(F.conv2d(x.clamp_min(0), first, padding=1).clamp_min(0), second)
    torch.testing.assert_close(block(x), x.clamp_min(0) + expected)


def test_a_restriction_module_has_no_way_around_the_bottom():
    """Cells that the middle map does not tell apart cannot come out different."""
    net = restriction(4)
    middle = []
    net[4].register_forward_hook(lambda _, __, y: middle.append(torch.zeros_like(y)) or middle[-1])
    with torch.no_grad():
        torch.testing.assert_close(net(noise(1, 4, 16, 16)), net(noise(1, 4, 16, 16, seed=1)))
    assert middle[0].shape == (1, 16, 4, 4)


# The quantiser


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


# How codes are broken


def test_ranks_to_choose_from_are_those_of_the_authors():
    first, last = candidate_ranks(4096, torch.tensor([0.05, 0.2, 0.5, 0.9999, 1.0]))
    assert first == 204
    assert last.tolist() == [205, 820, 2049, 4095, 4095]
    for num_codes in range(2, 300):
        first, last = candidate_ranks(num_codes, torch.linspace(0.0500001, 1, 50))
        assert 0 <= first < last.min()
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


# What is learnt in each phase


def test_the_quantiser_learns_before_the_runs_own_steps():
    one = trainer({"vq_steps": None}, num_steps=10)
    assert one.num_steps(100) == 20
    assert one.phases_of(20) == (range(10), range(10, 17), range(17, 20))
    epochs = trainer({"vq_steps": None}, num_epochs=50, batch_size=8)
    assert epochs.num_steps(209) == 2 * 50 * 27
    long = trainer({"vq_steps": None}, num_steps=150_000)
    assert long.num_steps(1) == 170_000
    assert [len(phase) for phase in long.phases_of(170_000)] == [20_000, 105_000, 45_000]
    chosen = trainer({"vq_steps": 7, "refine_share": 0.5}, num_steps=10)
    assert chosen.num_steps(100) == 17
    assert chosen.phases_of(17) == (range(7), range(7, 12), range(12, 17))
    for own in range(2, 60):  # none is empty, and nothing is left over
        short = trainer({"vq_steps": None}, num_steps=own)
        phases = short.phases_of(short.num_steps(1))
        assert min(map(len, phases)) > 0
        assert len(phases.quantizer) == own == len(phases.detection) + len(phases.refinement)
        assert phases.refinement.stop == 2 * own


def test_rates_are_constant_but_for_the_last_fifth_of_detection():
    optimizations = trainer({"vq_steps": 5, "refine_share": 0.5}, num_steps=20).optimizers(25)
    assert [o.steps for o in optimizations] == [range(5), range(5, 15), range(15, 25)]
    rates = [[o.schedule(step) for step in o.steps] for o in optimizations]
    assert rates == [[1] * 5, [1] * 8 + [0.1] * 2, [1] * 10]
    assert {g["lr"] for o in optimizations for g in o.optimizer.param_groups} == {2e-4}


def test_each_phase_moves_its_own_parts_and_no_other_bit():
    owners = {
        "quantizer": {"detector.vq"},
        "detection": {
            f"detector.{name}" for name in ("restrict_lo", "restrict_hi", "decoder", "detection")
        },
        "refinement": {"detector.refinement"},
    }
    moved = {}

    class Watch(Callback):
        def on_batch_end(self, state):
            after = learnt(one)
            step = state.step - 1
            phase = next(n for n, steps in one.phases._asdict().items() if step in steps)
            changed = {n for n, t in after.items() if not torch.equal(t, before[n])}
            moved.setdefault(phase, set()).update(changed)
            before.update(after)

    one = trainer({"vq_steps": 3}, num_steps=6)
    before = {}
    one.prepare(None)
    before.update(learnt(one))
    fit(one, pictures(), callbacks=[Watch()])
    names = set(before) - {"detector.trained"}
    for phase, parts in owners.items():
        own = {name for name in names if name.rpartition(".")[0].startswith(tuple(parts))}
        if phase == "quantizer":
            own |= {name for name in names if name.startswith("averages_")}
        assert moved[phase] <= own, phase
        # A bias before a normalisation has no effect, and so no gradient.
        assert {n for n in own if not n.endswith(".bias")} <= moved[phase], phase


def phase_losses(step, options=None):
    """The losses of a step of 9, three of each phase, with the trainer and its batch."""
    one = trainer({"refine_share": 0.5, **(options or {})}, num_steps=6)
    one.optimizers(9)
    batch = batch_of(images(), step=step, seed=4)
    torch.manual_seed(5)
    return one, batch, one.losses(batch)


def test_losses_of_the_quantiser_are_the_definitions():
    one, batch, losses = phase_losses(0)
    other = trainer()
    model, hi, lo = other.detector.vq, other.averages_hi, other.averages_lo
    torch.manual_seed(5)
    textures = other.textures.draw(batch.images, [batch.generator(row) for row in range(4)])
    everything = torch.cat([batch.images, textures])
    encoded = model.encoder_hi(everything)
    features_lo = model.to_lo(model.encoder_lo(encoded))
    codes_lo = lo.quantize(model.quantizer_lo, features_lo, patience=10)
    features_hi = model.to_hi(torch.cat([encoded, model.up(codes_lo)], 1))
    codes_hi = hi.quantize(model.quantizer_hi, features_hi, patience=10)
    rebuilt = model.decoder(torch.cat([model.up(codes_lo), codes_hi], 1))
    gap_lo, gap_hi = (features_lo - codes_lo).square(), (features_hi - codes_hi).square()
    expected = {
        "rebuilt": (rebuilt - everything).square().mean() / everything.var(),
        "committed": 0.25 * (gap_lo.mean() + gap_hi.mean()),
    }
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-9, msg=name)
    losses["committed"].backward(retain_graph=True)  # moves encoders alone
    assert next(one.detector.vq.decoder.parameters()).grad is None
    assert one.detector.vq.to_hi.weight.grad.abs().sum() > 0


def test_a_folder_of_textures_is_half_of_what_the_quantiser_sees(tmp_path):
    Image.new("RGB", (80, 90), (255, 0, 51)).save(tmp_path / "red.png")
    one, batch, _ = phase_losses(0, {"textures": str(tmp_path)})
    seen = []
    one.detector.vq.encoder_hi.register_forward_hook(lambda _, x, __: seen.append(x[0]))
    one.losses(batch)
    assert torch.equal(seen[0][:4], batch.images)
    expected = torch.tensor([1.0, 0.0, 0.2])[:, None, None].expand(4, 3, SIZE, SIZE)
    torch.testing.assert_close(seen[0][4:], expected)


def test_losses_of_detection_are_the_definitions():
    one, batch, losses = phase_losses(3)
    detector = one.detector
    found = {}
    sources = [batch.generator(row) for row in range(4)]
    with torch.no_grad():
        turned, masks = one._turned_and_masked(batch.images, sources)
        broken = break_codes(detector.vq, turned, masks, sources, strength=0.2)
    assert masks.any()
    assert not torch.equal(turned, batch.images)
    features_lo, features_hi = (
        detector.restrict_lo(broken.codes.lo), detector.restrict_hi(broken.codes.hi)
    )  # fmt: skip
    restored = Codes(detector.vq.quantizer_lo(features_lo), detector.vq.quantizer_hi(features_hi))
    own = detector.decoder(torch.cat([detector.vq.up(restored.lo), restored.hi], 1))
    general = detector.vq.decode(broken.codes)
    chances = detector.detection(torch.cat([own, general], 1)).softmax(1)
    found["restored_lo"] = (features_lo - broken.clean.lo).square().mean()
    found["restored_hi"] = (features_hi - broken.clean.hi).square().mean()
    found["picture"] = 10 * (own - turned).square().mean()
    found["detected"] = focal_loss(chances, broken.masks)
    assert losses.keys() == found.keys()
    for name, value in losses.items():
        torch.testing.assert_close(value, found[name], rtol=1e-4, atol=1e-7, msg=name)


def test_each_term_of_detection_reaches_what_it_should():
    one, _, losses = phase_losses(3)
    reached = {}
    parts = ("vq", "restrict_lo", "restrict_hi", "decoder", "detection", "refinement")
    for name, value in losses.items():
        one.detector.zero_grad(set_to_none=True)
        value.backward(retain_graph=True)
        reached[name] = {
            part
            for part in parts
            if any(p.grad is not None for p in getattr(one.detector, part).parameters())
        }
    assert reached == {
        "restored_lo": {"restrict_lo"},
        "restored_hi": {"restrict_hi"},
        # By way of the quantiser's frozen layer, which no optimiser of the phase moves.
        "picture": {"restrict_lo", "restrict_hi", "decoder", "vq"},
        "detected": {"detection"},
    }


def test_the_loss_of_refinement_is_the_definition():
    one, batch, losses = phase_losses(6)
    broken = one.blotches(batch.images, [batch.generator(row) for row in range(4)])
    detector = one.detector
    with torch.no_grad():
        codes = detector.vq.encode(broken.images)
        own, general = detector.restore(codes).images, detector.vq.decode(codes)
        chances = detector.detection(torch.cat([own, general], 1)).softmax(1)
        refined = detector.refinement(torch.cat([own, general, chances], 1)).softmax(1)
    assert broken.labels.any()
    assert list(losses) == ["refined"]
    torch.testing.assert_close(losses["refined"], focal_loss(refined, broken.masks))
    losses["refined"].backward()
    reached = {n.partition(".")[0] for n, p in detector.named_parameters() if p.grad is not None}
    assert reached == {"refinement"}


def test_blotches_of_refinement_have_one_colour_and_turn_less_often():
    one = trainer()
    grey = torch.full((1, 3, SIZE, SIZE), 0.5)
    for seed in range(20):
        broken = one.blotches(grey, generators(1, seed))
        inside = broken.images[0][:, broken.masks[0, 0] > 0]
        if broken.labels[0] and bool((broken.clean == grey).all()):
            assert torch.equal(inside, inside[:, :1].expand_as(inside))
    assert one.blotches.rotate_prob == pytest.approx(0.3)
    assert trainer({"rotate_prob": 0.0}).blotches.rotate_prob == 0


def test_half_of_the_pictures_are_masked_and_four_in_ten_turned():
    one = trainer()
    some = torch.full((300, 3, SIZE, SIZE), 0.5)
    turned, masks = one._turned_and_masked(some, generators(300))
    assert 100 < (turned != some).flatten(1).any(1).sum() < 145  # corners are black
    assert 115 < masks.flatten(1).any(1).sum() < 165  # one in twenty masks is empty
    assert (some == 0.5).all()
    never, _ = trainer({"rotate_prob": 0.0})._turned_and_masked(some, generators(300))
    assert torch.equal(never, some)


@pytest.mark.parametrize("step", [0, 3, 6])
def test_bf16_gives_losses_in_float32(step):
    one = trainer({"refine_share": 0.5}, num_steps=6, precision="bf16")
    one.optimizers(9)
    with torch.autocast("cpu", torch.bfloat16):
        losses = one.losses(batch_of(images(), step=step))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("killed_at", [1, 3, 5, 9, 11])
def test_a_run_killed_in_any_phase_ends_bit_equal(killed_at, tmp_path):
    def build(kind=DsrTrainer):
        setup = Setup(img_size=SIZE, normalize=False, num_epochs=3, batch_size=2, seed=5)
        return kind(setup, **SMALL, vq_steps=4)  # 4, 6 and 3 steps; 3 steps are an epoch

    whole = build()
    fit(whole, pictures())

    class Killed(DsrTrainer):
        def losses(self, batch):
            if batch.step == killed_at:
                raise KeyboardInterrupt
            return super().losses(batch)

    always = Checkpoints(tmp_path / "checkpoint", every_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        fit(build(Killed), pictures(), checkpoints=always)
    resumed = build()
    fit(resumed, pictures(), checkpoints=always)
    ours, theirs = learnt(resumed), learnt(whole)
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key
    assert resumed.notes == whole.notes


@pytest.mark.slow
@pytest.mark.slow
def test_every_phase_learns():
    seen = []

    class Watch(Callback):
        def on_epoch_end(self, state):
            seen.append(state.losses)

    options = {"embedding_dim": 16, "num_embeddings": 64, "width": 8, "lr": 1e-3, "vq_steps": 300}
    one = trainer({**options, "refine_share": 0.5}, num_epochs=100, batch_size=4)
    fit(one, pictures(12), callbacks=[Watch()])
    for name in ("rebuilt", "restored_lo", "restored_hi", "picture", "detected", "refined"):
        own = [losses[name] for losses in seen if name in losses]
        fall = np.mean(own[-3:]) / np.mean(own[:3])
        assert fall < 0.8, (name, fall)


# The detector


def test_the_map_is_refined_and_the_score_is_not():
    detector = trained()
    some = images(3)
    with torch.inference_mode():
        found = detector(some)
        codes = detector.vq.encode(some)
        own, general = detector.restore(codes).images, detector.vq.decode(codes)
        logits = detector.detection(torch.cat([own, general], 1)).double()
        chances = (1 / (1 + (logits[:, 0] - logits[:, 1]).exp())).numpy()
        pair = torch.cat([own, general, logits.softmax(1).float()], 1)
        logits = detector.refinement(pair).double()
    refined = (1 / (1 + (logits[:, 0] - logits[:, 1]).exp())).numpy()
    np.testing.assert_allclose(found.map, refined, rtol=1e-4)
    padded = np.pad(chances, ((0, 0), (10, 10), (10, 10)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (21, 21), axis=(1, 2))
    np.testing.assert_allclose(found.score, windows.mean((3, 4)).max((1, 2)), rtol=1e-4)


def test_a_picture_is_scored_the_same_in_any_batch_and_again():
    detector = trained()
    some = images(4)
    with torch.inference_mode():
        whole, again = detector(some), detector(some)
        alone = [detector(one[None]) for one in some]
    assert torch.equal(whole.map, again.map)
    # Normalising the flat maps of random weights makes much of the last digits.
    torch.testing.assert_close(torch.cat([a.map for a in alone]), whole.map, rtol=0, atol=1e-3)
    torch.testing.assert_close(torch.cat([a.score for a in alone]), whole.score, rtol=0, atol=1e-4)


def test_sides_may_differ():
    found = trained()(torch.rand(1, 3, 64, 96))
    assert found.map.shape == (1, 64, 96)


def test_bf16_gives_float32():
    with torch.inference_mode():
        found = trained(precision="bf16")(images(2))
    assert found.map.dtype == found.score.dtype == torch.float32
    assert found.map.isfinite().all()


@pytest.mark.parametrize("size", [(64, 72), (48, 64), (32, 32)])
def test_pictures_that_do_not_halve_five_times_are_refused(size):
    words = f"multiples of 32 pixels from 64, .*; got {size[0]} x {size[1]}"
    with pytest.raises(SettingError, match=words):
        trained()(torch.zeros(1, 3, *size))


def test_an_untrained_network_gives_no_scores():
    with pytest.raises(NotFittedError, match="`trained` is empty"):
        trainer().detector(images())


# Where a quantiser comes from


def quantizer_file(path, state, **changes):
    save_file({name: tensor.contiguous() for name, tensor in {**state, **changes}.items()}, path)
    return path


def other_quantizer():
    torch.manual_seed(7)
    return VqModel(8, 32, 4)


# As they are in the authors' checkpoint, with the shapes of the small model.
AUTHORS = {
    "_encoder_t._conv_1.weight": (8, 8, 4, 4),
    "_encoder_t._conv_1.bias": (8,),
    "_encoder_t._conv_2.weight": (8, 8, 3, 3),
    "_encoder_t._conv_2.bias": (8,),
    "_encoder_t._residual_stack._layers.0._block.1.weight": (4, 8, 3, 3),
    "_encoder_t._residual_stack._layers.0._block.3.weight": (8, 4, 1, 1),
    "_encoder_t._residual_stack._layers.1._block.1.weight": (4, 8, 3, 3),
    "_encoder_t._residual_stack._layers.1._block.3.weight": (8, 4, 1, 1),
    "_encoder_b._conv_1.weight": (4, 3, 4, 4),
    "_encoder_b._conv_1.bias": (4,),
    "_encoder_b._conv_2.weight": (8, 4, 4, 4),
    "_encoder_b._conv_2.bias": (8,),
    "_encoder_b._conv_3.weight": (8, 8, 3, 3),
    "_encoder_b._conv_3.bias": (8,),
    "_encoder_b._residual_stack._layers.0._block.1.weight": (4, 8, 3, 3),
    "_encoder_b._residual_stack._layers.0._block.3.weight": (8, 4, 1, 1),
    "_encoder_b._residual_stack._layers.1._block.1.weight": (4, 8, 3, 3),
    "_encoder_b._residual_stack._layers.1._block.3.weight": (8, 4, 1, 1),
    "_pre_vq_conv_bot.weight": (8, 16, 1, 1),
    "_pre_vq_conv_bot.bias": (8,),
    "_pre_vq_conv_top.weight": (8, 8, 1, 1),
    "_pre_vq_conv_top.bias": (8,),
    "_vq_vae_top._ema_w": (32, 8),
    "_vq_vae_top._ema_cluster_size": (32,),
    "_vq_vae_top._embedding.weight": (32, 8),
    "_vq_vae_bot._ema_w": (32, 8),
    "_vq_vae_bot._ema_cluster_size": (32,),
    "_vq_vae_bot._embedding.weight": (32, 8),
    "_decoder_b._conv_1.weight": (8, 16, 3, 3),
    "_decoder_b._conv_1.bias": (8,),
    "_decoder_b._residual_stack._layers.0._block.1.weight": (4, 8, 3, 3),
    "_decoder_b._residual_stack._layers.0._block.3.weight": (8, 4, 1, 1),
    "_decoder_b._residual_stack._layers.1._block.1.weight": (4, 8, 3, 3),
    "_decoder_b._residual_stack._layers.1._block.3.weight": (8, 4, 1, 1),
    "_decoder_b._conv_trans_1.weight": (8, 4, 4, 4),
    "_decoder_b._conv_trans_1.bias": (4,),
    "_decoder_b._conv_trans_2.weight": (4, 3, 4, 4),
    "_decoder_b._conv_trans_2.bias": (3,),
    "upsample_t.weight": (8, 8, 4, 4),
    "upsample_t.bias": (8,),
}


def authors_model(state, images):
    """Features, codes and the rebuilt picture, written out with the authors' names."""

    def conv(name, x, **options):
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)

    def up(name, x):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.conv_transpose2d(x, weight, bias, stride=2, padding=1)

    def stack(name, x):
        for layer in range(2):
            block = f"{name}._residual_stack._layers.{layer}._block"
            x = x.relu()
            x = x + conv(f"{block}.3", conv(f"{block}.1", x, padding=1).relu())
        return x.relu()

    def quantized(name, z):
        codes = state[f"{name}._embedding.weight"]
        rows = z.permute(0, 2, 3, 1)
        found = (rows[..., None, :] - codes).square().sum(-1).argmin(-1)
        return codes[found].permute(0, 3, 1, 2)

    fine = conv("_encoder_b._conv_1", images, stride=2, padding=1).relu()
    fine = conv("_encoder_b._conv_2", fine, stride=2, padding=1).relu()
    fine = stack("_encoder_b", conv("_encoder_b._conv_3", fine, padding=1))
    coarse = conv("_encoder_t._conv_1", fine, stride=2, padding=1).relu()
    coarse = stack("_encoder_t", conv("_encoder_t._conv_2", coarse, padding=1).relu())
    lo = quantized("_vq_vae_top", conv("_pre_vq_conv_top", coarse))
    risen = up("upsample_t", lo)
    hi = quantized("_vq_vae_bot", conv("_pre_vq_conv_bot", torch.cat([fine, risen], 1)))
    x = stack("_decoder_b", conv("_decoder_b._conv_1", torch.cat([risen, hi], 1), padding=1))
    return lo, hi, up("_decoder_b._conv_trans_2", up("_decoder_b._conv_trans_1", x).relu())


def test_the_authors_state_is_read_and_given_pictures_in_blue_green_red(tmp_path):
    state = {
        name: 0.3 * noise(*shape, seed=number)
        for number, (name, shape) in enumerate(AUTHORS.items())
    }
    model = VqModel(8, 32, 4)
    load_quantizer(model, quantizer_file(tmp_path / "vq.safetensors", state))
    some = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    double = {name: tensor.double() for name, tensor in state.items()}
    lo, hi, rebuilt = authors_model(double, some.flip(1).double())
    with torch.no_grad():
        codes = model.encode(some)
        torch.testing.assert_close(codes.lo.double(), lo, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(codes.hi.double(), hi, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            model.decode(codes).double(), rebuilt.flip(1), rtol=1e-4, atol=1e-4
        )


def test_a_quantiser_is_read_from_its_own_file_and_from_a_trained_detectors(tmp_path):
    theirs = other_quantizer()
    alone = quantizer_file(tmp_path / "alone.safetensors", theirs.state_dict())
    detector = trained()
    detector.vq.load_state_dict(theirs.state_dict())
    save_model(tmp_path / "model", detector, {})
    half = quantizer_file(
        tmp_path / "half.safetensors", {n: t.half() for n, t in theirs.state_dict().items()}
    )
    for file in (alone, tmp_path / "model" / "model.safetensors", half):
        found = trainer({"vq_weights": str(file), "vq_steps": None}).detector.vq.state_dict()
        for name, tensor in theirs.state_dict().items():
            expected = tensor.half().float() if file == half else tensor
            assert torch.equal(found[name], expected), name


def test_a_given_quantiser_is_not_learnt_and_takes_no_steps(tmp_path):
    theirs = other_quantizer().state_dict()
    file = quantizer_file(tmp_path / "vq.safetensors", theirs)
    one = trainer({"vq_weights": str(file), "vq_steps": None}, num_steps=4)
    assert one.num_steps(5) == 4
    assert one.phases_of(4) == (range(0), range(3), range(3, 4))
    fit(one, pictures())
    after = one.detector.vq.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in theirs.items())
    assert list(one.modules()) == ["detector"]


@pytest.mark.parametrize("start", [b"PK\x03\x04archive", b"\x80\x02pickle"])
def test_a_pickle_is_refused_with_the_way_out(start, tmp_path):
    file = tmp_path / "vq_model_pretrained_128_4096.pckl"
    file.write_bytes(start)
    with pytest.raises(WeightsError, match="is a pickle, which can run code") as caught:
        trainer({"vq_weights": str(file), "vq_steps": None})
    assert "weights_only=True" in str(caught.value)
    assert "vq_model_pretrained_128_4096.safetensors" in str(caught.value)


def test_the_way_out_of_a_pickle_works(tmp_path, monkeypatch):
    state = {name: noise(*shape) for name, shape in AUTHORS.items()}
    state["_vq_vae_top._ema_w"] = torch.nn.Parameter(state["_vq_vae_top._ema_w"])
    file = tmp_path / "vq.pckl"
    torch.save(state, file)
    with pytest.raises(WeightsError) as caught:
        trainer({"vq_weights": str(file), "vq_steps": None})
    program = str(caught.value).split('python -c "')[1].removesuffix('"')
    exec(compile(program, "hint", "exec"), {})  # what the hint says
    load_quantizer(VqModel(8, 32, 4), tmp_path / "vq.safetensors")


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    def build(file, **options):
        return trainer({"vq_weights": str(file), "vq_steps": None, **options})

    with pytest.raises(WeightsError, match=r"file `.*gone.safetensors` does not exist"):
        build(tmp_path / "gone.safetensors")
    (tmp_path / "text").write_text("hello, this is no tensor")
    with pytest.raises(WeightsError, match="is no readable safetensors file"):
        build(tmp_path / "text")
    state = other_quantizer().state_dict()
    missing = {name: tensor for name, tensor in state.items() if name != "up.weight"}
    with pytest.raises(WeightsError, match="lacks the tensor `up.weight` of DSR's quantiser"):
        build(quantizer_file(tmp_path / "missing", missing))
    with pytest.raises(WeightsError, match="lacks the tensor `encoder_hi.0.weight`"):
        build(quantizer_file(tmp_path / "other", {"layer.weight": torch.zeros(2)}))
    file = quantizer_file(tmp_path / "whole", state)
    words = r"`quantizer_lo.codes` in .* has shape \(32, 8\); \(16, 8\) is needed. Set `embedding"
    with pytest.raises(WeightsError, match=words):
        build(file, num_embeddings=16)


def test_what_else_is_learnt_from_is_known_by_its_content(tmp_path):
    assert trainer().inputs == {}
    file = quantizer_file(tmp_path / "vq.safetensors", other_quantizer().state_dict())
    given = trainer({"vq_weights": str(file), "vq_steps": None}).inputs
    assert given == {"vq_weights": hashlib.sha256(file.read_bytes()).hexdigest()}
    folder = tmp_path / "textures"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    one = trainer({"textures": str(folder)}).inputs
    Image.new("RGB", (8, 8)).save(folder / "b.png")
    two = trainer({"textures": str(folder)}).inputs
    assert one.keys() == two.keys() == {"textures"}
    assert one != two


def test_a_saved_one_loads_without_its_inputs_and_scores_the_same(tmp_path):
    one = trainer(num_steps=2)
    fit(one, pictures())
    save_model(tmp_path / "model", one.detector, {})
    gone = {"vq_weights": "gone.safetensors", "vq_steps": None}
    for options in ({"textures": "gone"}, gone):
        blank = trainer(options, weights=FROM_MODEL_FILE).detector
        load_tensors(blank, read_model(tmp_path / "model")[0], "model")
        with torch.inference_mode():
            assert torch.equal(blank(images(2)).map, one.detector(images(2)).map)


# What a user is told


def test_notes_say_what_was_gone_without(tmp_path):
    one = trainer({"vq_steps": 3}, num_steps=2)
    fit(one, pictures())
    quantizer, textures, budget = one.notes
    assert quantizer.startswith("No `vq_weights`: the quantiser learnt from these pictures")
    assert "in 3 steps before the run's own, and wants about 20,000" in quantizer
    assert "`--set vq_steps=N`" in quantizer
    assert textures.startswith("No textures: ")
    assert budget.startswith("DSR took 2 steps and needs about 25,000 (its authors took 150,000)")

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rich = trainer({"textures": str(tmp_path), "vq_steps": 20_000}, num_steps=ENOUGH_STEPS)
    rich.optimizers(20_000 + ENOUGH_STEPS)
    (only,) = rich.notes
    assert "in 20,000 steps before the run's own. The authors'" in only

    file = quantizer_file(tmp_path / "vq.safetensors", other_quantizer().state_dict())
    given = trainer({"vq_weights": str(file), "vq_steps": None}, num_steps=ENOUGH_STEPS)
    given.optimizers(ENOUGH_STEPS)
    assert given.notes == ()


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({}, {"img_size": 80}, "multiples of 32 pixels from 64, .*; got 80 x 80"),
        ({}, {"normalize": True}, "`normalize` of DSR must be off"),
        ({"latent_anomaly_strength": 0.04}, {}, "`latent_anomaly_strength` must be from 0.05 to 1"),
        ({"latent_anomaly_strength": 1.1}, {}, "of which the nearest 5% are .*; got 1.1"),
        ({"refine_share": 0.0}, {}, "`refine_share` must be above 0 and below 1; got 0.0"),
        ({"rotate_prob": 1.5}, {}, "`rotate_prob` must be a probability from 0 to 1; got 1.5"),
        ({"width": 0}, {}, "`width` must be a whole number from 1; got 0"),
        ({"embedding_dim": 0}, {}, "`embedding_dim` must be a whole number from 1; got 0"),
        ({"num_embeddings": 1}, {}, "`num_embeddings` must be a whole number from 2; got 1"),
        ({"vq_steps": 0}, {}, "`vq_steps` must be a whole number from 1; got 0"),
        ({"vq_weights": "f"}, {}, "`vq_steps` is for learning .* got both, 3 and 'f'. Leave one"),
        ({"vq_weights": "f", "vq_steps": None, "textures": "t"}, {}, "got both, 't' and 'f'"),
        ({"textures": "/nowhere"}, {}, "`textures` must be a folder of pictures"),
    ],
)
def test_what_cannot_work_is_refused(options, changes, words):
    with pytest.raises(SettingError, match=words):
        trainer(options, **changes)


def test_a_run_too_short_for_its_phases_is_refused():
    with pytest.raises(SettingError, match="DSR needs 2 steps or more, .*; the run has 1. Give"):
        fit(trainer(num_steps=1), pictures())


def test_an_empty_folder_of_textures_is_refused(tmp_path):
    with pytest.raises(DataError, match="folder of textures .* has no pictures"):
        trainer({"textures": str(tmp_path)})


def test_the_catalogue_has_the_numbers_that_were_agreed():
    assert DSR.model == {
        "latent_anomaly_strength": 0.2, "embedding_dim": 128, "num_embeddings": 4096
    }  # fmt: skip
    assert DSR.train == {"num_epochs": 50, "batch_size": 8, "img_size": 256, "normalize": False}
    # 100,000 steps of detection and 50,000 of refinement.
    setup = Setup(img_size=SIZE, normalize=False, num_steps=DSR.paper_budget["num_steps"])
    one = DsrTrainer(setup, **SMALL, vq_steps=1, **DSR.paper_budget["options"])
    phases = one.phases_of(one.num_steps(1))
    assert (len(phases.detection), len(phases.refinement)) == (100_000, 50_000)
