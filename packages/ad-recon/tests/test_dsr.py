"""DSR: its networks, its detector, and what a user is told."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small_dsr import (
    SIZE,
    SMALL,
    images,
    noise,
    other_quantizer,
    pictures,
    quantizer_file,
    trained,
    trainer,
)

from ad.core import Setup, fit
from ad.core.errors import DataError, NotFittedError, SettingError
from ad.recon.dsr.network import DsrDetector, restriction
from ad.recon.dsr.trainer import ENOUGH_STEPS, DsrTrainer
from ad.recon.dsr.vq import Residual
from ad.recon.models import DSR


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
        ({"latent_anomaly_strength": 0.04}, {}, "`latent_anomaly_strength` of .* or equal to 0.05"),
        (
            {"latent_anomaly_strength": 1.1},
            {},
            "`latent_anomaly_strength` .* or equal to 1; got",
        ),
        ({"refine_share": 0.0}, {}, "`refine_share` of .* greater than 0; got 0.0"),
        ({"rotate_prob": 1.5}, {}, "`rotate_prob` of .* or equal to 1; got 1.5"),
        ({"width": 0}, {}, "`width` of .* or equal to 1; got 0"),
        ({"embedding_dim": 0}, {}, "`embedding_dim` of .* or equal to 1; got 0"),
        ({"num_embeddings": 2}, {}, "`num_embeddings` of .* or equal to 3; got 2"),
        ({"vq_steps": 0}, {}, "`vq_steps` of .* or equal to 1; got 0"),
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
