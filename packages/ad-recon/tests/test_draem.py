from functools import partial

import numpy as np
import pytest
import tiny_batches
import torch
from PIL import Image
from tiny_batches import batch_of

from ad.core import FROM_MODEL_FILE, Callback, Setup, fit
from ad.core.errors import DataError, NotFittedError, SettingError
from ad.core.saved.files import read_model, save_model
from ad.core.saved.loading import load_tensors
from ad.core.testing import make_picture
from ad.recon import draem
from ad.recon.draem import DraemTrainer, FindingNetwork, MendingNetwork, PredictiveBlock
from ad.recon.focal import focal_loss
from ad.recon.ssim import ssim

SIZE = 64
pictures, images = partial(tiny_batches.pictures, SIZE), partial(tiny_batches.images, SIZE)


def trainer(options=None, **changes):
    values = {"img_size": SIZE, "normalize": False, "batch_size": 4, **changes}
    return DraemTrainer(Setup(**values), **{"width": 4, **(options or {})})


def trained(**options):
    one = trainer(options)
    one.prepare(None)
    return one.detector


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_are_those_of_the_authors():
    with torch.device("meta"):
        assert count(MendingNetwork(128, sspcab=False)) == 69_048_579
        assert count(FindingNetwork(64)) == 28_374_146
        # Four 1 x 1 convolutions and two layers of attention, with biases, for two 3 x 3 with
        # batch norm.
        block = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 128 + 128 + 1024
        last = 2 * (9 * 1024 * 1024 + 3 * 1024)
        assert count(MendingNetwork(128, sspcab=True)) == 69_048_579 - last + block


def test_textures_made_by_code_take_parts_of_all_pictures(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    good = pictures(4)
    for folder, pool in (("", good), (str(tmp_path), None)):
        one = trainer({"textures": folder}, num_steps=1)
        fit(one, good)
        assert getattr(one.breaking.textures, "pool", None) is pool


@pytest.mark.parametrize("sspcab", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_the_networks_keep_the_pictures_size(size, sspcab):
    found = trained(sspcab=sspcab).mend(noise(2, 3, *size))
    assert found.images.shape == (2, 3, *size)
    assert found.logits.shape == (2, 2, *size)
    assert found.cells.shape == found.code.shape == (2, 32, size[0] // 16, size[1] // 16)


def test_maps_have_the_sides_and_channels_of_the_paper():
    net = FindingNetwork(4)
    seen = []
    for block in (*net.down, *net.join):
        block.register_forward_hook(lambda _, x, y: seen.append((x[0].shape[1], *y.shape[1:3])))
    net(noise(1, 6, 64, 64))
    assert seen == [
        (6, 4, 64), (4, 8, 32), (8, 16, 16), (16, 32, 8), (32, 32, 4), (32, 32, 2),
        (64, 32, 4), (48, 16, 8), (24, 8, 16), (12, 4, 32), (8, 4, 64),
    ]  # fmt: skip


def test_the_predictive_block_is_the_definition_cell_by_cell():
    torch.manual_seed(0)
    block = PredictiveBlock(8).double()
    cells = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        predicted = torch.zeros(2, 8, 5, 6, dtype=torch.float64)
        for y, x in np.ndindex(5, 6):
            for corner, (dy, dx) in zip(
                block.corners, ((-2, -2), (2, -2), (-2, 2), (2, 2)), strict=True
            ):
                inside = 0 <= y + dy < 5 and 0 <= x + dx < 6
                cell = cells[:, :, y + dy, x + dx] if inside else torch.zeros(2, 8).double()
                predicted[:, :, y, x] += cell @ corner.weight[:, :, 0, 0].T + corner.bias
        predicted = predicted.clamp_min(0)
        first, _, second, _ = block.attention
        hidden = (predicted.mean((2, 3)) @ first.weight.T + first.bias).clamp_min(0)
        share = 1 / (1 + (-(hidden @ second.weight.T + second.bias)).exp())
        torch.testing.assert_close(block(cells), predicted * share[:, :, None, None])


def test_a_cell_is_predicted_from_others_alone():
    torch.manual_seed(0)
    block = PredictiveBlock(8)
    torch.nn.init.zeros_(block.attention[2].weight)  # attention sees all cells
    cells = noise(1, 8, 7, 7).requires_grad_()
    block(cells)[0, :, 3, 3].sum().backward()
    reached = cells.grad[0].abs().sum(0).nonzero().tolist()
    assert reached == [[1, 1], [1, 5], [5, 1], [5, 5]]


def test_the_losses_are_those_of_the_paper():
    one = trainer()
    one.detector.train()
    batch = batch_of(images(), seed=3)
    found = one.losses(batch)
    with torch.no_grad():
        broken = one.breaking(batch.images, [batch.generator(row) for row in range(4)])
        net = one.detector
        cells = net.mending.encoder(broken.images)
        code = net.mending.last(cells)
        mended = net.mending.decoder(code)
        chances = net.finding(torch.cat([mended, broken.images], 1)).softmax(1)
    assert broken.labels.any()  # something is broken, or the mask plays no part
    expected = {
        "squares": (mended - broken.clean).square().mean(),
        "structure": 1 - ssim(mended, broken.clean).mean(),
        "focal": focal_loss(chances, broken.masks),
        "predicted": 0.1 * (cells - code).square().mean(),
    }
    assert found.keys() == expected.keys()
    for name, loss in found.items():
        torch.testing.assert_close(loss, expected[name], msg=name)
    plain = trainer({"sspcab": False})
    assert list(plain.losses(batch)) == ["squares", "structure", "focal"]


def test_finding_teaches_the_mending_network_too():
    one = trainer()
    one.detector.train()
    one.losses(batch_of(images()))["focal"].backward()
    assert next(one.detector.mending.parameters()).grad.abs().sum() > 0


def test_the_map_is_a_probability_and_the_score_the_largest_mean_of_a_square():
    detector = trained()
    with torch.inference_mode():
        found = detector(images())
        logits = detector.mend(images()).logits.double()
    chance = (1 / (1 + (logits[:, 0] - logits[:, 1]).exp())).numpy()
    np.testing.assert_allclose(found.map, chance, rtol=1e-4)
    padded = np.pad(chance, ((0, 0), (10, 10), (10, 10)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (21, 21), axis=(1, 2))
    np.testing.assert_allclose(found.score, windows.mean((3, 4)).max((1, 2)), rtol=1e-4)


@pytest.mark.parametrize("pixel", [(31, 32), (0, 63)])
def test_a_single_hot_pixel_is_worth_one_part_of_21_times_21(pixel, monkeypatch):
    detector = trained()
    logits = torch.full((1, 2, SIZE, SIZE), -50.0)
    logits[0, 0] = 50
    logits[0, :, *pixel] *= -1
    said = draem.Mended(images(), logits, images(), images())
    monkeypatch.setattr(detector, "mend", lambda _: said)
    assert detector(images()).score.item() == pytest.approx(1 / 441, rel=1e-5)


def test_pictures_are_turned_as_often_as_the_authors_turn_them():
    assert trainer().breaking.rotate_prob == 0.3
    assert trainer({"rotate_prob": 0.1}).breaking.rotate_prob == 0.1


def test_bf16_comes_close_and_gives_float32():
    full = trained()
    half = trainer(precision="bf16").detector  # of the same seed
    half.trained = full.trained
    with torch.inference_mode():
        ours, theirs = half(images()), full(images())
    assert ours.map.dtype == ours.score.dtype == torch.float32
    assert not torch.equal(ours.map, theirs.map)
    torch.testing.assert_close(ours.map, theirs.map, rtol=0.02, atol=0.02)


def test_initial_weights_are_those_of_the_authors():
    net = trainer({"width": 16}).detector.mending
    convolution, norm = net.encoder[3], net.encoder[1]
    assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.02)
    assert 0 < norm.weight.std().item() < 0.05
    assert not norm.bias.any()


def test_learning_mends_and_finds():
    one = trainer({"width": 8, "lr": 1e-3}, num_epochs=20)
    losses = []

    class Watched(Callback):
        def on_epoch_end(self, state):
            losses.append(state.losses)

    fit(one, pictures(12), callbacks=[Watched()])
    for name in ("squares", "structure", "focal", "predicted"):
        assert losses[-1][name] < 0.5 * losses[0][name], name


def test_the_rate_falls_to_a_fifth_at_80_and_at_90_percent():
    (optimization,) = trainer().optimizers(20)
    (group,) = optimization.optimizer.param_groups
    assert group["lr"] == 1e-4
    assert len(group["params"]) == len(list(trainer().detector.parameters()))
    rates = [optimization.schedule(step) for step in range(20)]
    assert rates == pytest.approx([1] * 16 + [0.2] * 2 + [0.04] * 2)


def test_a_short_run_and_textures_made_by_code_are_said(tmp_path):
    one = trainer(num_steps=1)
    fit(one, pictures(4))
    made, short = one.notes
    assert made.startswith("No textures: ")
    assert short.startswith("DRAEM took 1 steps and needs about 12,000 (its authors took 700 ep")
    Image.fromarray(make_picture(0)[0]).save(tmp_path / "texture.png")
    rich = trainer({"textures": str(tmp_path)})
    assert list(rich.inputs) == ["textures"]
    assert one.inputs == {}
    rich.losses(batch_of(images(), step=draem.ENOUGH_STEPS - 1))
    assert rich.notes == ()


def test_textures_are_needed_to_learn_and_not_to_predict(tmp_path):
    folder = tmp_path / "textures"
    folder.mkdir()
    Image.fromarray(make_picture(0)[0]).save(folder / "texture.png")
    one = trainer({"textures": str(folder)}, num_steps=1)
    fit(one, pictures(4))
    save_model(tmp_path / "model", one.detector, {})
    (folder / "texture.png").unlink()
    with pytest.raises(DataError, match="folder of textures .* has no pictures"):
        trainer({"textures": str(folder)})
    loaded = trainer({"textures": str(folder)}, weights=FROM_MODEL_FILE).detector
    load_tensors(loaded, read_model(tmp_path / "model")[0], tmp_path)
    assert torch.equal(loaded(images()).score, one.detector(images()).score)


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({}, {"img_size": 80}, "`img_size` of DRAEM must be a multiple of 32 from 64, .*; got 80"),
        ({}, {"img_size": 32}, "a multiple of 32 from 64, .*; got 32"),
        ({"width": 5}, {}, "`width` of `DraemTrainer`: .* multiple of 2; got 5"),
        ({"width": 0}, {}, "`width` of `DraemTrainer`: .* or equal to 2; got 0"),
        ({"rotate_prob": 1.5}, {}, "`rotate_prob` of .* less than or equal to 1; got 1.5"),
        ({"textures": "/nowhere"}, {}, "`textures` must be a folder of pictures"),
        ({}, {"normalize": True}, "`normalize` of DRAEM must be off"),
    ],
)
def test_what_cannot_work_is_refused(options, changes, words):
    with pytest.raises(SettingError, match=words):
        trainer(options, **changes)


def test_pictures_that_do_not_halve_five_times_are_refused():
    with pytest.raises(SettingError, match="multiples of 32 pixels, .*; got 64 x 80. Resize them"):
        trained()(noise(1, 3, 64, 80))


def test_an_untrained_network_gives_no_scores():
    with pytest.raises(NotFittedError, match="`trained` is empty"):
        trainer().detector(images())
