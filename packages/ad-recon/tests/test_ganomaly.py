from functools import partial

import numpy as np
import pytest
import tiny_batches
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from tiny_batches import batch_of

from ad.core import Callback, Checkpoints, Setup, fit
from ad.core.errors import NotFittedError, SettingError
from ad.recon import ganomaly
from ad.recon.ganomaly import Discriminator, Encoder, GanomalyTrainer, decoder, initialize
from ad.recon.models import GANOMALY

SIZE = 32
pictures, images = partial(tiny_batches.pictures, SIZE), partial(tiny_batches.images, SIZE)


def trainer(options=None, kind=GanomalyTrainer, **changes):
    values = {"img_size": SIZE, "normalize": False, "batch_size": 4, **changes}
    small = {"input_size": (SIZE, SIZE), "n_features": 8, "latent_vec_size": 16, "lr": 2e-4}
    return kind(Setup(**values), **{**small, **(options or {})})


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def generator():
    return torch.Generator().manual_seed(0)


def test_parameters_are_those_of_the_authors():
    with torch.device("meta"):
        encoders = [Encoder(256, 64, 256) for _ in range(2)]
        assert count(*encoders, decoder(256, 64, 256)) == 159_285_632
        assert count(Discriminator(256, 64, seed=0)) == 44_739_328


@pytest.mark.parametrize("size", [16, 32, 128])
def test_pictures_become_codes_and_codes_pictures(size):
    one = trainer({"input_size": (size, size)}, img_size=size)
    copies = one.detector.copy(torch.rand(2, 3, size, size))
    assert copies.rebuilt.shape == (2, 3, size, size)
    assert copies.code.shape == copies.again.shape == (2, 16)
    features, logits = one.discriminator(copies.images)
    assert features.shape == (2, 8 * size // 8, 4, 4)
    assert logits.shape == (2,)


def test_the_losses_are_those_of_the_authors():
    one = trainer()
    for module in one.modules().values():
        module.train()
    found = one.losses(batch_of(images()))
    with torch.no_grad():
        x = 2 * images() - 1
        z = one.detector.encoder(x)
        copy = one.detector.decoder(z).tanh()
        again = one.detector.second_encoder(copy)
        net = one.discriminator.encoder
        real, fake = net.trunk(x), net.trunk(copy)
        p, q = net.last(real).sigmoid(), net.last(fake).sigmoid()
    expected = {
        "adversarial": (real - fake).square().mean(),
        "content": 50 * (x - copy).abs().mean(),
        "latent": (z - again).square().mean(),
        "discriminator": -(p.log().mean() + (1 - q).log().mean()) / 2,
    }
    assert found.keys() == expected.keys()
    for name, loss in found.items():
        torch.testing.assert_close(loss, expected[name], msg=name)


def test_each_optimiser_has_its_own_parameters_and_the_gradients_of_its_own_losses():
    one = trainer()
    optimizations = one.optimizers(1)
    owned = [
        {id(p) for group in o.optimizer.param_groups for p in group["params"]}
        for o in optimizations
    ]
    modules = (one.detector, one.discriminator)
    assert owned == [{id(p) for p in module.parameters()} for module in modules]
    fit(one, pictures(4))
    # By hand: two Adams, and everything that is not an optimiser's own detached from its losses.
    plain = trainer()
    net = plain.discriminator.encoder
    for module in plain.modules().values():
        module.train()
    adams = [
        torch.optim.Adam(module.parameters(), 2e-4, betas=(0.5, 0.999))
        for module in (plain.detector, plain.discriminator)
    ]
    order = np.random.default_rng((0, 0, 0)).permutation(4).tolist()
    copies = plain.detector.copy(images()[order])
    fake = net.trunk(copies.rebuilt)
    generator_loss = (
        (net.trunk(copies.images).detach() - fake).square().mean()
        + 50 * (copies.rebuilt - copies.images).abs().mean()
        + (copies.again - copies.code).square().mean()
    )
    own = torch.autograd.grad(generator_loss, list(plain.detector.parameters()))
    true = plain.discriminator(copies.images)[1]
    false = plain.discriminator(copies.rebuilt.detach())[1]
    (0.5 * (F.softplus(-true).mean() + F.softplus(false).mean())).backward()
    for parameter, gradient in zip(plain.detector.parameters(), own, strict=True):
        parameter.grad = gradient
    for adam in adams:
        adam.step()
    for ours, theirs in zip(modules, (plain.detector, plain.discriminator), strict=True):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_the_score_is_the_distance_of_the_codes_and_the_map_that_of_the_pixels():
    one = trainer()
    fit(one, pictures())
    with torch.inference_mode():
        found = one.detector(images())
        x = 2 * images() - 1
        z = one.detector.encoder(x)
        copy = one.detector.decoder(z).tanh()
        again = one.detector.second_encoder(copy)
    torch.testing.assert_close(found.score, (z - again).flatten(1).square().mean(1))
    gap = (x - copy).abs().mean(1).numpy()
    expected = np.stack([gaussian_filter(one, 4) for one in gap])
    np.testing.assert_allclose(found.map, expected, rtol=1e-4, atol=1e-6)


def test_initial_weights_are_those_of_the_authors():
    encoder = Encoder(64, 64, 100)
    initialize(encoder, generator())
    convolution, _, second, norm, *_ = encoder.trunk
    for weight, mean in ((convolution.weight, 0), (second.weight, 0), (norm.weight, 1)):
        assert weight.mean().item() == pytest.approx(mean, abs=0.01)
        assert weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert not norm.bias.any()


def test_learning_rebuilds_good_pictures():
    one = trainer(num_epochs=30)
    losses = []

    class Watched(Callback):
        def on_epoch_end(self, state):
            losses.append(state.losses["content"])

    fit(one, pictures(12), callbacks=[Watched()])
    assert losses[-1] < 0.5 * losses[0]


class Wins(GanomalyTrainer):
    """Its discriminator is said to have won at the second step."""

    def losses(self, batch):
        losses = super().losses(batch)
        if batch.step == 1:
            self.discriminator.judged.fill_(0)
        return losses


def test_a_discriminator_that_has_won_is_started_anew_and_no_other():
    seen = []

    class Watched(Wins):
        def losses(self, batch):
            before = self.discriminator.encoder.last.weight.clone()
            losses = super().losses(batch)
            changed = not torch.equal(before, self.discriminator.encoder.last.weight)
            seen.append(changed)
            return losses

    fit(trainer(kind=Watched, num_epochs=2), pictures())
    assert seen == [False, False, True, False]


@pytest.mark.parametrize(("loss", "due"), [(0.8e-5, True), (1.2e-5, False)])
def test_a_restart_is_due_below_a_loss_of_a_hundred_thousandth(loss, due, monkeypatch):
    one = trainer()
    logit = -torch.tensor(loss).expm1().log()  # of which the cross-entropy is that loss
    judged = iter([logit, -logit])
    features = torch.zeros(4, 1)
    with monkeypatch.context() as patch:
        patch.setattr(
            one.discriminator, "forward", lambda images: (features, next(judged).expand(4))
        )
        found = one.losses(batch_of(images()))["discriminator"]
    assert found.item() == pytest.approx(loss, rel=0.05)  # 1 and so little, in float32
    before = one.discriminator.encoder.last.weight.clone()
    one.discriminator.restart_if_collapsed(1)
    assert torch.equal(before, one.discriminator.encoder.last.weight) != due


def test_a_restart_that_is_due_survives_a_kill(tmp_path):
    whole = trainer(kind=Wins, num_epochs=2)
    fit(whole, pictures())

    class Killed(Wins):
        def losses(self, batch):
            if batch.step == 2:  # the restart is due now
                raise KeyboardInterrupt
            return super().losses(batch)

    always = Checkpoints(tmp_path / "checkpoint", every_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(kind=Killed, num_epochs=2), pictures(), checkpoints=always)
    resumed = trainer(kind=Wins, num_epochs=2)
    fit(resumed, pictures(), checkpoints=always)
    for name, module in whole.modules().items():
        for key, tensor in module.state_dict().items():
            assert torch.equal(resumed.modules()[name].state_dict()[key], tensor), key


def test_the_discriminator_is_not_part_of_what_is_saved():
    assert not any("discriminator" in name for name in trainer().detector.state_dict())


@pytest.mark.parametrize(
    ("options", "rate"), [({}, 2e-6), ({"gamma": 0.5}, 1e-4), ({"lr": 3e-4, "gamma": 0.1}, 3e-4)]
)
def test_gamma_scales_the_authors_rate_unless_there_is_one(options, rate):
    one = trainer({"gamma": GANOMALY.model["gamma"], "lr": None, **options})
    for optimization in one.optimizers(10):
        (group,) = optimization.optimizer.param_groups
        assert group["lr"] == pytest.approx(rate)
        assert group["betas"] == (0.5, 0.999)
        assert optimization.schedule(9) == 1


def test_the_catalogues_rate_and_steps_are_said_to_be_small():
    one = trainer({"lr": None}, num_epochs=2)
    fit(one, pictures())
    slow, short = one.notes
    assert slow.startswith("GANomaly learnt at a rate of 2e-06 (`gamma` 0.01 times 0.0002)")
    assert "`--set lr=0.0002`" in slow
    assert short.startswith("GANomaly took 4 steps and needs about 5,000")
    usual = trainer()
    usual.losses(batch_of(images(), step=ganomaly.ENOUGH_STEPS - 1))
    assert usual.notes == ()


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({"input_size": (32, 64)}, {}, "a square of a power of two from 16, .*; got 32 x 64"),
        ({"input_size": (48, 48)}, {"img_size": 48}, "a power of two from 16, .*; got 48 x 48"),
        ({"input_size": (8, 8)}, {}, "a power of two from 16, .*; got 8 x 8"),
        (
            {"input_size": (256, 256)},
            {"img_size": 64},
            "`input_size` 256 x 256 and `img_size` 64 of GANomaly must agree. Give both, "
            "`--img-size N --set input_size=N,N`",
        ),
        ({"n_features": 0}, {}, "`n_features` of `GanomalyTrainer`: .* or equal to 1; got 0"),
        ({"latent_vec_size": 0}, {}, "`latent_vec_size` of .* or equal to 1; got 0"),
        ({}, {"normalize": True}, "`normalize` of GANomaly must be off"),
    ],
)
def test_what_cannot_work_is_refused(options, changes, words):
    with pytest.raises(SettingError, match=words):
        trainer(options, **changes)


def test_pictures_of_another_size_are_refused():
    one = trainer()
    one.prepare(None)
    with pytest.raises(SettingError, match="was trained at 32 x 32 pixels; got 64 x 32. Resize"):
        one.detector(torch.rand(1, 3, 64, 32))


def test_an_untrained_network_gives_no_scores():
    with pytest.raises(NotFittedError, match="`trained` is empty"):
        trainer().detector(images())
