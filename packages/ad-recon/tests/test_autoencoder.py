from functools import partial

import numpy as np
import pytest
import tiny_batches
import torch
from scipy.ndimage import gaussian_filter
from tiny_batches import batch_of

from ad.core import Callback, PictureSet, Setup, fit, load, to_device
from ad.core.errors import ModelFileError, NotFittedError, SettingError
from ad.core.framing import Framing
from ad.core.predict import ModelConfig
from ad.core.saved.files import save_model
from ad.core.testing import make_picture
from ad.recon.autoencoder import AutoencoderTrainer
from ad.recon.ssim import ssim
from ad.runtime.framing.size import size_of

SIZE = 32
pictures, images = partial(tiny_batches.pictures, SIZE), partial(tiny_batches.images, SIZE)


def trainer(options=None, **changes):
    values = {"img_size": SIZE, "normalize": False, "batch_size": 4, **changes}
    return AutoencoderTrainer(Setup(**values), **{"latent_dim": 8, **(options or {})})


def trained(options=None, **changes):
    one = trainer(options, **changes)
    one.prepare(None)
    return one.detector


def test_parameters_are_those_of_the_architecture():
    detector = trainer({"latent_dim": 128}, img_size=256).detector
    assert sum(p.numel() for p in detector.parameters()) == 18_222_915


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("size", [32, 48, 80])
def test_a_picture_goes_through_the_code_and_comes_back(size, norm):
    detector = trainer({"norm": norm}, img_size=size).detector
    codes = []
    detector.squeeze.register_forward_hook(lambda _, __, code: codes.append(code))
    rebuilt = detector.rebuild(torch.rand(2, 3, size, size))
    assert codes[0].shape == (2, 8)
    assert rebuilt.shape == (2, 3, size, size)
    assert 0 <= rebuilt.min() <= rebuilt.max() <= 1


def test_the_losses_are_the_shares_of_both_errors():
    one = trainer()
    losses = one.losses(batch_of(images()))
    rebuilt = one.detector.rebuild(images())
    gaps = (images() - rebuilt).detach().numpy().astype(np.float64)
    assert losses["squares"].item() == pytest.approx(0.7 * np.mean(gaps**2), rel=1e-5)
    alike = ssim(images(), rebuilt).mean().item()
    assert losses["structure"].item() == pytest.approx(0.3 * (1 - alike), rel=1e-5)


def test_the_map_is_the_smoothed_sum_and_the_score_its_maximum():
    detector = trained()
    with torch.inference_mode():
        found = detector(images())
        rebuilt = detector.rebuild(images())
        alike = ssim(images(), rebuilt)
    squares = ((images() - rebuilt).numpy() ** 2).mean(1)
    raw = 0.7 * squares + 0.3 * (1 - alike.numpy()) / 2
    smooth = [gaussian_filter(one, 4) for one in raw]
    np.testing.assert_allclose(found.map, np.stack(smooth), rtol=1e-4)
    np.testing.assert_allclose(found.score, [one.max() for one in smooth], rtol=1e-4)


def test_the_map_can_be_left_as_it_is_and_scored_by_its_largest_hundredth():
    found = trained({"sigma": 0, "score": "top"})(images())
    for one, score in zip(found.map, found.score, strict=True):
        largest = sorted(one.flatten().tolist())[-10:]  # of 1024 pixels
        assert score.item() == pytest.approx(np.mean(largest), rel=1e-5)


def test_learning_rebuilds_good_pictures_and_not_defects():
    one = trainer(num_epochs=25)
    before = one.losses(batch_of(images()))
    fit(one, pictures(12))
    after = one.losses(batch_of(images()))
    assert all(after[name] < 0.5 * before[name] for name in before)
    bad, mask = make_picture(200, size=SIZE, defect=True)
    (map_,) = one.detector(torch.from_numpy(bad).permute(2, 0, 1)[None] / 255).map
    assert map_[torch.from_numpy(mask)].mean() > 2 * map_.mean()


def test_the_rate_is_halved_after_each_tenth_of_the_steps():
    (optimization,) = trainer().optimizers(100)
    (group,) = optimization.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-3, 1e-5)
    rates = [optimization.schedule(step) for step in range(100)]
    assert rates == [0.5**tenth for tenth in range(10) for _ in range(10)]


def test_the_epoch_that_rebuilds_held_out_pictures_best_is_kept():
    values = []

    class Watched(Callback):
        def on_epoch_end(self, state):
            values.append(state.monitor)

    negatives = [255 - make_picture(i, size=SIZE)[0] for i in range(4)]  # they get worse with time
    held_out = PictureSet(negatives, SIZE)
    one = trainer(num_epochs=8)
    fit(one, pictures(), held_out=held_out, callbacks=[Watched()])
    assert min(values) < values[-1]
    (batch,) = held_out.batches(4)
    with torch.inference_mode():
        kept = one.monitor(to_device(batch.pictures, torch.device("cpu"))).mean().item()
    assert kept == pytest.approx(min(values), rel=1e-5)


def test_a_short_run_says_so():
    one = trainer(num_epochs=3)
    fit(one, pictures())
    (note,) = one.notes
    assert note.startswith("The auto-encoder took 6 steps and needs about 3,000: ")
    assert "`--steps 3000`" in note
    one.losses(batch_of(images(), step=2999))
    assert one.notes == ()


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({}, {"img_size": 40}, "a multiple of 16 from 16, so .*; got 40"),
        ({"norm": True}, {"img_size": 16}, "a multiple of 16 from 32, so .*; got 16"),
        ({"latent_dim": 0}, {}, "`latent_dim` of `AutoencoderTrainer`: .* or equal to 1; got 0"),
        ({"sigma": -1}, {}, "`sigma` of `AutoencoderTrainer`: .* or equal to 0; got -1"),
        (
            {"sigma": 1e-320},
            {},
            "`sigma` must be a positive .* may be from 0.001 to",
        ),
        ({}, {"normalize": True}, "`normalize` of the auto-encoder must be off: it rebuilds"),
    ],
)
def test_what_cannot_work_is_refused(options, changes, words):
    with pytest.raises(SettingError, match=words):
        trainer(options, **changes)


def test_pictures_of_another_size_are_refused():
    with pytest.raises(SettingError, match="was trained at 32 x 32 pixels; got 32 x 48. Resize"):
        trained()(torch.rand(1, 3, 32, 48))


def test_an_untrained_network_gives_no_scores():
    with pytest.raises(NotFittedError, match="`trained` is empty"):
        trainer().detector(images())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latent_dim": 10**9}, "`latent_dim` of model `autoencoder`: .* than or equal to 4096"),
        ({"sigma": 1e12}, "`sigma` of model `autoencoder`: .* than or equal to 256; got 10"),
        ({"sigma": 1e-320}, "`sigma` must be a positive number of pixels"),
        ({"lr": float("-1e300")}, "`lr` of model `autoencoder`: .* greater than 0"),
    ],
)
def test_a_saved_option_beyond_its_limits_is_refused(tmp_path, options, words):
    config = ModelConfig(
        model="autoencoder",
        options=options,
        framing=Framing(size=size_of(SIZE)),
        normalize=False,
        precision="fp32",
        categories=("toy",),
        calibration=None,
        calibrated_on=None,
    )
    save_model(tmp_path / "model", trained(), config.to_json())
    with pytest.raises(ModelFileError, match=words):
        load(tmp_path / "model", device="cpu")
