from __future__ import annotations

import errno
import shutil
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from ad.core import FROM_MODEL_FILE, Setup
from ad.core.errors import DataError, ModelFileError, NotFittedError, OutputError, SettingError
from ad.core.saved.files import read_model, save_model
from ad.core.saved.loading import load_tensors
from ad.memory.padim import PadimTrainer
from ad.memory.reduction import ChannelSubset, LinearProjection

BACKBONE = "test_resnet"  # timm's smallest: layers as of a ResNet-18, built in milliseconds
CHANNELS = (32, 48, 192)
STARTS = (0, 32, 80)  # of each layer's channels among all


def setup(**changes):
    return Setup(**{"img_size": 32, "normalize": True, "weights": "random", **changes})


def pictures(count, seed=0, size=32):
    """Smooth noise: no two alike, and neighbouring pixels related as in a picture."""
    generator = torch.Generator().manual_seed(seed)
    return F.interpolate(
        torch.rand(count, 3, 8, 8, generator=generator), size=(size, size), mode="bilinear"
    )


def trained(images, *, batch=4, reduction="random", n_features=12, setting=None, **options):
    trainer = PadimTrainer(
        setting or setup(),
        backbone=BACKBONE,
        reduction=reduction,
        n_features=n_features,
        **options,
    )
    with torch.inference_mode():
        trainer.begin(len(images))
        for part in images.split(batch):
            trainer.observe(trainer.extract(part))
        trainer.conclude()
    return trainer.detector


def textbook_patches(maps):
    """All layers at the first one's grid, then all channels: [B, C, h, w]."""
    size = maps[0].shape[-2:]
    return torch.cat([F.interpolate(m.float(), size=size, mode="nearest") for m in maps], dim=1)


def held_bytes(thing):
    return sum(t.nbytes for t in vars(thing).values() if isinstance(t, torch.Tensor))


@pytest.mark.parametrize("sizes", [(8, 4, 2), (9, 5, 3), (7, 4, 3)])
def test_choosing_channels_before_upsampling_is_the_textbook_order(sizes):
    maps = [torch.randn(2, c, s, s + 1) for c, s in zip(CHANNELS, sizes, strict=True)]
    subset = ChannelSubset(CHANNELS, 30)
    subset.draw(torch.Generator().manual_seed(3))
    chosen = torch.cat([subset.get_buffer(f"channels_{i}") + STARTS[i] for i in range(3)])
    assert len(chosen.unique()) == 30
    expected = textbook_patches(maps)[:, chosen]  # [B, D, h, w]
    assert torch.equal(subset(maps), expected.permute(2, 3, 0, 1).flatten(0, 1))


@pytest.mark.parametrize("sizes", [(8, 4, 2), (9, 5, 3), (7, 4, 3)])
def test_projecting_before_upsampling_is_the_textbook_order(sizes):
    maps = [torch.randn(2, c, s, s + 1) for c, s in zip(CHANNELS, sizes, strict=True)]
    projection = LinearProjection(CHANNELS, 30)
    projection.draw(torch.Generator().manual_seed(3))
    patches = textbook_patches(maps).permute(2, 3, 0, 1).flatten(0, 1)
    torch.testing.assert_close(
        projection(maps), patches @ projection.projection, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("count", [6, 20])
def test_maps_are_those_of_a_textbook_version_in_float64(count):
    images, asked = pictures(count), pictures(3, seed=9)
    detector = trained(images, sigma=2.0)
    assert (detector.gaussians.factor.shape[-2] == 12) == (count == 20)  # both ways of fitting
    buffers = dict(detector.embedding.named_buffers())
    chosen = torch.cat([buffers[f"channels_{i}"] + STARTS[i] for i in range(3)])
    seen = textbook_patches(detector.extractor(images))[:, chosen].double().numpy()
    new = textbook_patches(detector.extractor(asked))[:, chosen].double().numpy()
    distances = np.empty((3, 8, 8))
    for y, x in np.ndindex(8, 8):
        inverse = np.linalg.inv(np.cov(seen[:, :, y, x], rowvar=False) + 0.01 * np.eye(12))
        gap = new[:, :, y, x] - seen[:, :, y, x].mean(axis=0)
        distances[:, y, x] = np.sqrt(np.einsum("bi,ij,bj->b", gap, inverse, gap))
    large = F.interpolate(
        torch.from_numpy(distances)[:, None], size=(32, 32), mode="bilinear", align_corners=False
    )
    expected = [gaussian_filter(m, sigma=2.0) for m in large[:, 0].numpy()]
    prediction = detector(asked)
    np.testing.assert_allclose(prediction.map.numpy(), np.stack(expected), rtol=2e-4)
    np.testing.assert_allclose(
        prediction.score.numpy(), np.stack(expected).max(axis=(1, 2)), rtol=2e-4
    )


@pytest.mark.parametrize("reduction", ["random", "pca", "semi_orth"])
def test_a_defect_scores_higher_than_what_was_seen_and_is_found(reduction):
    images = pictures(1) + 0.02 * pictures(20, seed=1)
    defective = images[:1].clone()
    defective[..., 4:12, 20:28] = 0.0
    detector = trained(images, reduction=reduction, sigma=1.0)
    good, bad = detector(images), detector(defective)
    assert bad.score.item() > 3 * good.score.max().item()
    y, x = divmod(int(bad.map[0].argmax()), 32)
    assert 0 <= y < 16
    assert 16 <= x < 32


@pytest.mark.parametrize("size", [32, 36])
def test_principal_components_are_those_of_all_patches_at_once(size):
    images = pictures(10, size=size)
    detector = trained(images, reduction="pca", n_features=5, setting=setup(img_size=size), batch=3)
    patches = (
        textbook_patches(detector.extractor(images)).permute(0, 2, 3, 1).reshape(-1, sum(CHANNELS))
    )
    _, vectors = np.linalg.eigh(np.cov(patches.double().numpy(), rowvar=False))
    cosines = np.abs((vectors[:, ::-1][:, :5] * detector.embedding.projection.numpy()).sum(axis=0))
    np.testing.assert_allclose(cosines, 1.0, rtol=1e-4)


def test_maps_wait_in_their_own_precision_and_come_back_unchanged():
    trainer = PadimTrainer(
        setup(precision="bf16"), backbone=BACKBONE, reduction="pca", n_features=5
    )
    trainer.begin(5)
    given = [trainer.detector.extractor(part) for part in pictures(5).split(3)]
    for part in pictures(5).split(3):
        trainer.observe(trainer.extract(part))
    back = list(trainer._pca.replay())
    trainer.conclude()
    assert [m.dtype for m in back[0]] == [torch.bfloat16] * 3
    for one, other in zip(given, back, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_semi_orthogonal_columns_are_orthonormal():
    projection = LinearProjection(CHANNELS, 40)
    projection.draw(torch.Generator().manual_seed(0))
    columns = projection.projection
    torch.testing.assert_close(columns.T @ columns, torch.eye(40), rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_features", [3, 5])
def test_a_random_choice_has_a_channel_of_every_layer(n_features):
    for seed in range(30):
        subset = ChannelSubset(CHANNELS, n_features)
        subset.draw(torch.Generator().manual_seed(seed))
        chosen = list(subset.buffers())
        assert sum(len(c) for c in chosen) == n_features
        assert all(c.min() >= 0 and c.max() < n for c, n in zip(chosen, CHANNELS, strict=True))


@pytest.mark.parametrize("reduction", ["random", "semi_orth"])
def test_the_seed_decides_what_is_random(reduction):
    images, asked = pictures(6), pictures(2, seed=9)
    detectors = []
    for seed in (0, 0, 1):
        trainer = PadimTrainer(setup(), backbone=BACKBONE, reduction=reduction, n_features=12)
        trainer.setup = setup(seed=seed)  # the backbone stays the same
        trainer.begin(6)
        trainer.observe(trainer.extract(images))
        trainer.conclude()
        detectors.append(trainer.detector)
    first, same, other = (detector(asked).map for detector in detectors)
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("count", [6, 20])
@pytest.mark.parametrize("reduction", ["random", "pca", "semi_orth"])
def test_a_loaded_detector_gives_identical_scores(tmp_path, count, reduction):
    detector, asked = trained(pictures(count), reduction=reduction), pictures(3, seed=9)
    save_model(tmp_path / "model", detector, {})
    tensors, _ = read_model(tmp_path / "model")
    other_seed = setup(seed=5, weights=FROM_MODEL_FILE)
    fresh = PadimTrainer(other_seed, backbone=BACKBONE, reduction=reduction, n_features=12)
    load_tensors(fresh.detector, tensors, tmp_path / "model")
    expected, loaded = detector(asked), fresh.detector(asked)
    assert torch.equal(loaded.score, expected.score)
    assert torch.equal(loaded.map, expected.map)


@pytest.mark.parametrize("count", [6, 20])
def test_an_image_scores_the_same_alone_and_in_a_batch_of_eight(count):
    detector, asked = trained(pictures(count)), pictures(8, seed=9)
    together = detector(asked)
    alone = [detector(image[None]) for image in asked]
    torch.testing.assert_close(
        torch.cat([p.score for p in alone]), together.score, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        torch.cat([p.map for p in alone]), together.map, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("reduction", ["random", "semi_orth", "pca"])
def test_what_is_held_while_learning_does_not_grow_with_the_pictures(reduction):
    held = []
    for count in (20, 60):
        trainer = PadimTrainer(setup(), backbone=BACKBONE, reduction=reduction, n_features=12)
        trainer.begin(count)
        for part in pictures(count).split(4):
            trainer.observe(trainer.extract(part))
        held.append(held_bytes(trainer._pca if reduction == "pca" else trainer._fit))
        trainer.conclude()
    assert held[0] == held[1] > 0


def test_a_trainer_can_learn_again_and_forgets():
    images, asked = pictures(20), pictures(2, seed=9)
    trainer = PadimTrainer(setup(), backbone=BACKBONE, n_features=12)
    for taught in (pictures(20, seed=4), images):
        trainer.begin(20)
        trainer.observe(trainer.extract(taught))
        trainer.conclude()
    assert torch.equal(trainer.detector(asked).map, trained(images, batch=20)(asked).map)


def test_an_unfitted_detector_says_so():
    trainer = PadimTrainer(setup(), backbone=BACKBONE, n_features=12)
    with pytest.raises(NotFittedError, match="`PadimDetector` has not been fitted"):
        trainer.detector(pictures(1))


def test_pictures_of_another_size_are_refused():
    detector = trained(pictures(6))
    with pytest.raises(SettingError, match="each position of 32 x 32 pictures; got 64 x 32"):
        detector(torch.zeros(1, 3, 64, 32))


@pytest.mark.parametrize("reduction", ["random", "pca", "semi_orth"])
@pytest.mark.parametrize(
    ("n_features", "message"),
    [
        (0, r"`n_features` of `PadimTrainer`: .* greater than or equal to 1; got 0\."),
        (273, r"`n_features` must be between 1 and .* 272; got 273\."),
    ],
)
def test_n_features_must_not_exceed_the_channels(reduction, n_features, message):
    with pytest.raises(SettingError, match=message):
        PadimTrainer(setup(), backbone=BACKBONE, reduction=reduction, n_features=n_features)


def test_a_random_choice_needs_a_channel_for_every_layer():
    with pytest.raises(SettingError, match="at least the number of layers, 3, .*; got 2"):
        PadimTrainer(setup(), backbone=BACKBONE, n_features=2)


@pytest.mark.parametrize(("option", "words"), [("eps", r"to 0\.0{11}1"), ("sigma", "to 0.001")])
def test_eps_and_sigma_must_be_positive(option, words):
    words = rf"`{option}` of `PadimTrainer`: .* greater than or equal {words}; got 0\.0"
    with pytest.raises(SettingError, match=words):
        PadimTrainer(setup(), backbone=BACKBONE, n_features=12, **{option: 0.0})


@pytest.mark.parametrize("reduction", ["random", "pca"])
def test_one_picture_is_too_few(reduction):
    trainer = PadimTrainer(setup(), backbone=BACKBONE, reduction=reduction, n_features=12)
    with pytest.raises(DataError, match="at least 2 normal pictures; got 1"):
        trainer.begin(1)
    trainer.begin(2)
    if reduction == "random":
        with pytest.raises(DataError, match="at least 2 normal pictures; got 0"):
            trainer.conclude()
    else:
        trainer._pca.close()


def test_too_small_a_disk_is_noticed_before_anything_is_written(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**29))
    trainer = PadimTrainer(setup(), backbone=BACKBONE, reduction="pca", n_features=12)
    trainer.begin(10**6)
    message = (
        r"for the features of 1000000 pictures needs .* GiB, and 0\.5 GiB are free\. Make room"
    )
    with pytest.raises(OutputError, match=message):
        trainer.observe(trainer.extract(pictures(2)))


def test_a_disk_that_runs_full_is_said_in_words(monkeypatch):
    class FullDisk:
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda prefix: FullDisk())
    trainer = PadimTrainer(setup(), backbone=BACKBONE, reduction="pca", n_features=12)
    trainer.begin(4)
    message = r"cannot be written \(No space left on device\)\. .*`reduction=random`"
    with pytest.raises(OutputError, match=message):
        trainer.observe(trainer.extract(pictures(2)))


def changed(detector, name, tensor):
    """A new detector with another tensor loaded."""
    blank = PadimTrainer(setup(weights=FROM_MODEL_FILE), backbone=BACKBONE, n_features=12).detector
    load_tensors(blank, {**detector.state_dict(), name: tensor}, "elsewhere")
    return blank


@pytest.mark.parametrize("name", ["gaussians.mean", "gaussians.factor", "embedding.channels_0"])
def test_loaded_tensors_of_another_number_of_dimensions_are_refused(name):
    tensor = trained(pictures(6)).state_dict()[name]
    with pytest.raises(ModelFileError, match=f"Tensor `{name}` of the saved model .* is needed"):
        changed(trained(pictures(6)), name, tensor[None])


@pytest.mark.parametrize("index", [-1, 32])
def test_loaded_channels_that_do_not_exist_are_refused(index):
    detector = trained(pictures(6))
    chosen = detector.embedding.channels_0.clone()
    chosen[0] = index
    words = (
        "`embedding.channels_0` of the saved model `elsewhere` has values from .* to .*; they must"
    )
    with pytest.raises(ModelFileError, match=rf"{words} be from 0 to 31\. It was changed"):
        changed(detector, "embedding.channels_0", chosen)


@pytest.mark.parametrize("count", [6, 30])  # the factors of few samples, and of many
@pytest.mark.parametrize("part", ["positions", "features", "factor"])
def test_loaded_gaussians_that_do_not_fit_the_pictures_are_refused(count, part):
    detector = trained(pictures(count))
    mean, factor = detector.gaussians.mean, detector.gaussians.factor
    state = {
        "positions": {"gaussians.mean": mean[:1], "gaussians.factor": factor[:1]},
        "features": {"gaussians.mean": mean[:, :1]},
        "factor": {"gaussians.factor": factor[..., :1]},
    }[part]
    blank = PadimTrainer(setup(weights=FROM_MODEL_FILE), backbone=BACKBONE, n_features=12).detector
    load_tensors(blank, {**detector.state_dict(), **state}, "elsewhere")
    with pytest.raises(ModelFileError, match="The Gaussians' `.*` is .* is needed for 64 position"):
        blank.eval()(pictures(1))
