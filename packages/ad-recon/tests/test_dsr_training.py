"""DSR's three phases: how long each is, what it moves, and its losses."""

import numpy as np
import pytest
import torch
from killed_runs import check_resuming, learnt
from PIL import Image
from small_dsr import SIZE, SMALL, generators, images, pictures, trainer
from tiny_batches import batch_of

from ad.core import Callback, Setup, fit
from ad.recon.dsr.anomalies import break_codes
from ad.recon.dsr.trainer import DsrTrainer
from ad.recon.dsr.vq import Codes
from ad.recon.focal import focal_loss


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


def test_textures_made_by_code_take_parts_of_all_pictures():
    one, good = trainer({"vq_steps": 1}, num_steps=2), pictures()
    fit(one, good)
    assert one.textures.pool is good


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
    def build(kind):
        setup = Setup(img_size=SIZE, normalize=False, num_epochs=3, batch_size=2, seed=5)
        return kind(setup, **SMALL, vq_steps=4)  # 4, 6 and 3 steps; 3 steps are an epoch

    check_resuming(DsrTrainer, build, pictures(), tmp_path, killed_at=killed_at)


@pytest.mark.slow
def test_every_phase_learns():
    seen = []

    class Watch(Callback):
        def on_epoch_end(self, state):
            seen.append(state.losses)

    options = {"embedding_dim": 16, "num_embeddings": 64, "width": 8, "lr": 1e-3, "vq_steps": 150}
    one = trainer({**options, "refine_share": 0.5}, num_epochs=50, batch_size=4)
    fit(one, pictures(12), callbacks=[Watch()])
    for name in ("rebuilt", "restored_lo", "restored_hi", "picture", "detected", "refined"):
        own = [losses[name] for losses in seen if name in losses]
        fall = np.mean(own[-3:]) / np.mean(own[:3])
        assert fall < 0.8, (name, fall)
