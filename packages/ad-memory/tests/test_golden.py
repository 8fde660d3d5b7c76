"""Memory models against golden numbers of the authors' code; see `golden`."""

import pytest
import torch
from golden import Golden, needs_golden
from torch import nn

from ad.core import Setup
from ad.core.networks import GaussianBlur, PooledPatches, upsample
from ad.memory.dfkde import DfkdeDetector, DfkdeTrainer
from ad.memory.gaussian import PositionGaussians, StoredFit, StreamedFit
from ad.memory.neighbors import nearest
from ad.memory.patchcore import PatchcoreTrainer
from ad.memory.reduction import ChannelSubset

pytestmark = needs_golden

SETUP = Setup(img_size=32, normalize=True, weights="random")
BACKBONE = "test_resnet"  # timm's smallest: layers as of a ResNet-18, built in milliseconds
CPU = torch.device("cpu")


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Features(nn.Module):
    """An extractor whose one layer is the pictures themselves."""

    def __init__(self, channels):
        super().__init__()
        self.channels = (channels,)

    def forward(self, images):
        return [images]


@pytest.mark.parametrize("length", [12, 16])
def test_the_embedding_of_patchcore(length):
    key = f"embedding/d_pre{length}_d{length}"
    with Golden("landed_patchcore", only=("embedding/layer", key)) as golden:
        maps = golden.layers("embedding/layer")
        golden.check(PooledPatches([8, 16], length, per_layer=length)(maps), key, 1e-5)


def test_the_scores_of_patchcore(monkeypatch):
    only = ("bank", "query", "nearest", "patch", "score")
    with Golden("landed_patchcore", only=only) as golden:
        bank, query = golden["bank"], golden["query"]
        distances, indices = nearest(query.flatten(0, 1), bank, 3)
        golden.check(distances[:, 0].view(2, 16), "patch_score", 1e-5)
        golden.check(distances.mean(1).view(2, 16), "patch_score_k3_mean", 1e-5)
        assert torch.equal(indices[:, 0].view(2, 16), golden["nearest_index"])
        for mode, key in (("max", "score_max"), ("reweight", "score_reweight_b9")):
            detector = PatchcoreTrainer(SETUP, backbone=BACKBONE, score=mode).detector
            detector.memory.bank = bank  # as it is, not in half precision
            monkeypatch.setattr(detector, "embed", lambda _: query.view(2, 4, 4, 6))
            golden.check(detector(torch.zeros(2, 3, 32, 32)).score, key, 1e-5)


def at_positions(maps):
    """``[B, C, h, w]`` to ``[h w, B, C]``, float64."""
    return maps.double().permute(2, 3, 0, 1).flatten(0, 1)


def test_padim(float64):
    """Fitted in float64 from end to end, as the file was; float32 is tried in `test_gaussian`."""
    with Golden("landed_padim") as golden:
        train, test = at_positions(golden["train"]), at_positions(golden["test"])
        # Each is used once: the working copy of sums that are in float64 is the sums themselves.
        shown, fit = (StreamedFit(12, 5, 0.01, CPU) for _ in range(2))
        for each in (shown, fit):
            each.add(train)
        golden.check(shown.covariance(slice(None)), "covariance", 1e-8)
        gaussians = PositionGaussians(0.01)
        gaussians.fit(fit)
        golden.check(gaussians.mean.T, "mean", 1e-8)
        grid = gaussians(test).T.unflatten(1, (3, 4))
        golden.check(grid, "mahalanobis", 1e-8)
        smooth = GaussianBlur(4)(upsample(grid, (48, 64)))
        golden.check(smooth, "map_48x64", 1e-6)
        golden.check(smooth.amax((1, 2)), "score", 1e-6)

        few = StoredFit(4, 4, 9, 0.01, CPU)
        few.add(at_positions(golden["few/train"]))
        gaussians.fit(few)
        found = gaussians(at_positions(golden["few/test"]))
        golden.check(found[:, 0].view(2, 2), "few/mahalanobis", 1e-8)

        every = ChannelSubset((3, 2), 5)
        every.channels_0, every.channels_1 = torch.arange(3), torch.arange(2)
        joined = every(golden.layers("concat/layer"))
        golden.check(joined.permute(1, 2, 0).unflatten(2, (8, 8)), "concat/out", 0)


@pytest.mark.parametrize("scaling", ["scale", "norm"])
def test_dfkde(scaling):
    """All but the probabilities, which are not part of the model.

    Of ``norm`` anomalib's density is wrong, as the README says.
    """
    beyond = [f"{scaling}/probability"]
    if scaling == "norm":
        beyond.append("norm/density_anomalib")
    with Golden("landed_dfkde", only=("train", "test", scaling), beyond=beyond) as golden:
        one = DfkdeTrainer(SETUP, backbone=BACKBONE, n_components=4, scaling=scaling)
        one.detector = DfkdeDetector(Features(12), scaling=scaling)
        train = golden["train"][..., None, None]
        one.begin(len(train))
        one.observe(one.extract(train))
        one.conclude()
        log_density = -one.detector(golden["test"][..., None, None]).score
        golden.check(log_density, f"{scaling}/log_density", 1e-6)
        if scaling == "scale":
            golden.check(one.detector.length, "scale/max_norm", 1e-6)
            golden.check(log_density.exp(), "scale/density_anomalib", 1e-6)
