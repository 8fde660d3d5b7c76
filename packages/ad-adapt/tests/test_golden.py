"""Adapting models against golden numbers of the authors' code; see `golden`."""

import pytest
import torch
from golden import Golden, needs_golden
from torch import nn

from ad.adapt.cfa import CfaDetector, CfaTrainer, Descriptor
from ad.adapt.dfm import DfmDetector, DfmTrainer
from ad.adapt.simplenet import Head, SimplenetTrainer
from ad.core import LearningBatch, Setup
from ad.core.detector import mark_trained

pytestmark = needs_golden

SIZE = 64


def setup(**changes):
    values = {"img_size": SIZE, "normalize": True, "weights": "random", "batch_size": 2}
    return Setup(**{**values, **changes})


class Saying(nn.Module):
    """A network that says what it is given to say, whatever it sees."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward(self, _):
        return self.said


def batch_of(frozen, images):
    indices = tuple(range(len(images)))
    return LearningBatch(
        images=images, frozen=tuple(frozen), indices=indices, epoch=0, seed=0, step=0
    )


ANOMALIB = ("anomalib/fre_score", "anomalib/n_components")


def test_dfm():
    """In float64 throughout, but for maps, which are float32 in any case.

    Anomalib's scores are left out: it keeps a component too few.
    """
    only = ("anomalib", "explained", "lambda", "mean", "n_components", "test", "train")
    with Golden("adapt_dfm", only=only, beyond=ANOMALIB) as golden:
        one = DfmTrainer(setup(img_size=24), backbone="resnet18", pool=1)
        rows = {name: golden[f"{name}_features"].double() for name in ("train", "test")}
        one.begin(14)
        one.observe(rows["train"][:9].flatten(1))
        one.observe(rows["train"][9:].flatten(1))
        one.conclude()
        detector = one.detector
        golden.check(len(detector.variances), "n_components", 0)
        golden.check(detector.bias, "mean", 1e-6)
        golden.check(detector.variances, "lambda", 1e-6)
        held = rows["train"].flatten(1) - detector.bias
        whole = torch.linalg.svdvals(held).square()
        cumulative = whole.cumsum(0) / whole.sum()
        golden.check(cumulative, "explained_variance_ratio_cumulative", 1e-6)
        golden.check(
            detector.code(rows["test"].flatten(1)).square().sum(1),
            "test/projection_squared_norm",
            1e-6,
        )
        for name, features in rows.items():
            flat = features.flatten(1)
            cells = detector.error(flat).square().view_as(features).sum(1)
            detector.score_type = "fre"
            golden.check(detector.score(flat, cells), f"{name}/fre_score", 1e-6)
            detector.score_type = "nll"
            golden.check(detector.score(flat, cells), f"{name}/nll_score", 1e-6)
        golden.check(cells, "test/fre_map_3x3", 1e-6)
        detector.extractor = Saying((golden["test_features"],))
        found = detector.float()(torch.zeros(4, 3, 24, 24))
        golden.check(found.map[:, None], "test/fre_map_up24", 1e-6)


@pytest.mark.parametrize("pool", [2, 4])
def test_the_pooling_of_dfm(pool):
    with Golden("adapt_dfm", only=(f"pool/pooled{pool}", "pool/raw")) as golden:
        extractor = Saying((golden["pool/raw"],))
        detector = DfmDetector(extractor, pool=pool, img_size=64, score_type="fre")
        golden.check(detector.features(torch.zeros(2, 3, 64, 64)), f"pool/pooled{pool}", 1e-6)


def cfa(golden, radius=1e-5):
    """CFA with the file's descriptor, and its batches to learn from."""
    one = CfaTrainer(setup(), backbone="resnet18", radius=radius)
    descriptor = Descriptor((4, 6, 8))
    with torch.no_grad():
        descriptor.mix.weight.copy_(golden["conv.weight"][:, :, None, None])
        descriptor.mix.bias.copy_(golden["conv.bias"])
    one.detector = CfaDetector(Saying(None), descriptor, neighbors=3, radius=radius)
    images = torch.zeros(2, 3, SIZE, SIZE)
    batches = [
        batch_of(golden.layers(f"train_batch{number}/features.layer"), images)
        for number in range(3)
    ]
    return one, batches


def prepared(golden, radius=1e-5):
    one, batches = cfa(golden, radius)
    one.detector.centroids = golden["centroids"]
    return one, batches


def test_the_descriptions_and_centroids_of_cfa():
    only = ("train_batch0", "train_batch1", "train_batch2", "centroids", "coords", "conv")
    with Golden("adapt_cfa", only=only) as golden:
        one, batches = cfa(golden)
        descriptor = one.detector.descriptor
        with torch.no_grad():
            described = descriptor(batches[0].frozen)
        golden.check(described.mT.unflatten(2, (8, 8)), "train_batch0/phi", 2e-5)

        class Data:
            batches = staticmethod(lambda _: iter(batches))

            def __len__(self):
                return 6

        one.prepare(Data())
        golden.check(one.detector.centroids, "centroids", 2e-5)
        square = torch.stack(
            [one._distances([maps[[row]] for maps in batches[0].frozen]) for row in range(2)]
        )
        key = "train_batch0/six_smallest_squared_distances"
        golden.check(square.detach(), key, 2e-5)

        place = torch.eye(18)[:, :, None, None]  # of which the first two channels say the place
        descriptor.mix.weight = nn.Parameter(
            torch.cat([torch.zeros(18, 18, 1, 1), place[:, :2]], 1)
        )
        descriptor.mix.bias = nn.Parameter(torch.zeros(18))
        with torch.no_grad():
            said = descriptor(batches[0].frozen)[0].T.unflatten(1, (8, 8))
        golden.check(said[:2], "coords", 1e-6)


@pytest.mark.parametrize("name", ["r1e-5", "r_active"])
def test_the_losses_of_cfa_and_their_gradients(name):
    with Golden("adapt_cfa", only=f"loss/{name}/") as golden:
        one, batches = prepared(golden, golden[f"loss/{name}/r"].item())
        losses = one.losses(batches[0])
        total = sum(losses.values())
        total.backward()
        golden.check(losses["attraction"].detach(), f"loss/{name}/attraction", 2e-5)
        golden.check(losses["repulsion"].detach(), f"loss/{name}/repulsion", 2e-5)
        golden.check(total.detach(), f"loss/{name}/value", 2e-5)
        mix = one.detector.descriptor.mix
        golden.check(mix.weight.grad[:, :, 0, 0], f"loss/{name}/grad.conv.weight", 2e-5)
        golden.check(mix.bias.grad, f"loss/{name}/grad.conv.bias", 2e-5)
        golden.check(one.detector.radius.grad, f"loss/{name}/grad.r", 2e-5)


def test_the_steps_of_cfa():
    with Golden("adapt_cfa", only="steps/") as golden:
        one, batches = prepared(golden)
        (optimization,) = one.optimizers(2)
        for number, batch in enumerate(batches[:2]):
            loss = sum(one.losses(batch).values())
            golden.check(loss.detach(), f"steps/loss{number}", 2e-5)
            optimization.optimizer.zero_grad()
            loss.backward()
            optimization.optimizer.step()
        weight = one.detector.descriptor.mix.weight.detach()[:, :, 0, 0]
        golden.check_change(
            golden["conv.weight"], weight, "steps/after2.conv.weight", "conv.weight", 2e-5
        )
        golden.check_change(
            torch.tensor([1e-5]), one.detector.radius.detach(), "steps/after2.r",
            "loss/r1e-5/r", 2e-5,
        )  # fmt: skip


def test_the_map_and_score_of_cfa():
    """Anomalib's map is left out: its border is another one."""
    with Golden("adapt_cfa", only="test/", beyond=["test/map64_anomalib"]) as golden:
        one, _ = prepared(golden)
        detector = one.detector
        maps = golden.layers("test/features.layer")
        detector.extractor = Saying(maps)
        with torch.inference_mode():
            cells = detector.patch_score(detector.descriptor(maps).flatten(0, 1))
            found = detector(torch.zeros(2, 3, SIZE, SIZE))
        golden.check(cells.view(2, 8, 8), "test/score_grid", 2e-5)
        golden.check(found.map, "test/map64", 2e-5)
        golden.check(found.score, "test/score", 2e-5)


def test_simplenet():
    with Golden("extra_simplenet") as golden:
        one = SimplenetTrainer(setup(), backbone="resnet18", embedding="concatenated")
        head = Head(12, 10)
        first, norm, _, last = head.discriminator
        with torch.no_grad():
            for name, tensor in {
                "adaptor/weight": head.adaptor.weight,
                "adaptor/bias": head.adaptor.bias,
                "discriminator/first.weight": first.weight,
                "discriminator/first.bias": first.bias,
                "discriminator/batchnorm.weight": norm.weight,
                "discriminator/batchnorm.bias": norm.bias,
                "discriminator/batchnorm.running_mean": norm.running_mean,
                "discriminator/batchnorm.running_var": norm.running_var,
                "discriminator/last.weight": last.weight,
            }.items():
                tensor.copy_(golden[name])
        detector = one.detector
        detector.head = head
        # Twenty pictures of a single patch each: their scores are those of their patches.
        patches = golden["features"].view(20, 1, 1, 12)
        detector.extractor, detector.patches = Saying(None), Saying(patches)
        mark_trained(detector)
        detector.eval()
        with torch.inference_mode():
            score = detector(torch.zeros(20, 3, 8, 8)).score
        golden.check(score, "eval/patch_score", 2e-5)

        detector.train()
        noise = golden["noise"] / one.noise
        said = []
        head.register_forward_hook(lambda *arguments: said.append(torch.cat(arguments[2])))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randn_like", lambda _: noise)
            loss = sum(one.losses(batch_of((), torch.zeros(20, 3, 8, 8))).values())
        golden.check(said[0].detach(), "train/logits", 2e-5)
        golden.check(loss.detach(), "train/loss", 2e-5)
        (optimization,) = one.optimizers(1)
        loss.backward()
        golden.check(head.adaptor.weight.grad, "train/grad.adaptor.weight", 2e-5)
        golden.check(last.weight.grad, "train/grad.discriminator.last.weight", 2e-5)
        optimization.optimizer.step()
        golden.check_change(
            golden["adaptor/weight"], head.adaptor.weight.detach(),
            "train/after.adaptor.weight", "adaptor/weight", 2e-5,
        )  # fmt: skip
        golden.check_change(
            golden["discriminator/last.weight"], last.weight.detach(),
            "train/after.discriminator.last.weight", "discriminator/last.weight", 2e-5,
        )  # fmt: skip
