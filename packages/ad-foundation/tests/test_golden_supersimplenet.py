"""SuperSimpleNet against golden numbers of the authors' code; see `golden`."""

import pytest
import torch
from golden import Golden, check_close, needs_golden
from torch import nn

from ad.core import Setup, Truth
from ad.core.detector import mark_trained
from ad.core.synth import perlin_noise
from ad.foundation.supersimplenet import (
    SupersimplenetDetector,
    SupersimplenetTrainer,
    fused,
    masks_at,
    questions,
)

pytestmark = needs_golden

TOLERANCE = 2e-5
SIZE = 64


class Saying(nn.Module):
    """A network that says what it is given to say, whatever it sees."""

    precision, channels = "fp32", (4, 6)

    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward(self, _):
        return self.said


def trainer_of(golden, **options):
    one = SupersimplenetTrainer(
        Setup(img_size=SIZE, normalize=True, weights="random"), backbone="resnet18", **options
    )
    maps = golden.layers("features/layer")
    one.detector = SupersimplenetDetector(
        Saying(maps), classify_adapted=one.detector.classify_adapted, hidden=12
    )
    for part, prefix in (
        (one.detector.adapt, "adaptor"),
        (one.detector.segment[0], "seg_head.first"),
        (one.detector.segment[1], "seg_head.batchnorm"),
        (one.detector.segment[3], "seg_head.last"),
        (one.detector.classify.conv, "cls_head.conv5"),
        (one.detector.classify.norm, "cls_head.batchnorm"),
        (one.detector.classify.linear, "cls_head.linear"),
    ):
        state = part.state_dict()
        with torch.no_grad():
            for name, tensor in state.items():
                if name != "num_batches_tracked":
                    tensor.copy_(golden[f"{prefix}.{name}"])
    mark_trained(one.detector)
    return one, maps


WEIGHTS = ("features/layer", "adaptor", "seg_head", "cls_head")


def test_features_and_what_both_heads_say_of_them():
    """Not anomalib's, whose corners are not aligned."""
    beyond = ["features/out_anomalib_align_false"]
    with Golden(
        "foundation_supersimplenet", only=(*WEIGHTS, "eval", "features"), beyond=beyond
    ) as golden:
        one, maps = trainer_of(golden)
        golden.check(fused(maps), "features/out", TOLERANCE)
        images = torch.zeros(2, 3, SIZE, SIZE)
        detector = one.detector.eval()
        with torch.inference_mode():
            features = fused(maps)
            golden.check(detector.segment(detector.adapt(features)), "eval_icpr/seg_map", TOLERANCE)
            score, anomaly_map = detector(images)
        golden.check(score, "eval_icpr/cls_logit", TOLERANCE)
        golden.check(score.sigmoid(), "eval_icpr/score", TOLERANCE)
        golden.check(anomaly_map[:, None], "eval_icpr/map64", TOLERANCE)
        detector.classify_adapted = False
        with torch.inference_mode():
            golden.check(detector(images).score, "eval_jims/cls_logit", TOLERANCE)


@pytest.mark.parametrize("case", ["16x32_res1x2", "32x32_res4x8", "64x64_res32x16"])
def test_perlin_noise(case):
    with Golden("foundation_supersimplenet", only=f"perlin/{case}/") as golden:
        angles = golden[f"perlin/{case}/angles"]
        lines = max(angles.shape)
        square = torch.zeros(1, lines, lines)
        square[0, : angles.shape[0], : angles.shape[1]] = angles
        expected = golden[f"perlin/{case}/noise"]
        cells = torch.tensor([[side - 1 for side in angles.shape]])
        check_close(perlin_noise(square, cells, expected.shape)[0], expected, TOLERANCE, case)


@pytest.mark.parametrize(
    "case", ["train_unsupervised", "train_supervised", "train_weak_label_without_mask"]
)
def test_one_step_of_learning(case):
    """What is not taken from a mask and noise is known by what the heads were given and said."""
    only = (*WEIGHTS, "features/out", f"{case}/", "train/")
    beyond = ["features/out_anomalib_align_false"]
    with Golden("foundation_supersimplenet", only=only, beyond=beyond) as golden:
        supervised = case != "train_unsupervised"
        one, maps = trainer_of(golden, supervised=supervised)
        golden.check(features := fused(maps), "features/out", TOLERANCE)
        truth = None
        if case == "train_supervised":
            masks = golden["train_supervised/gt_mask"][:, 0]
            truth = Truth(labels=golden["train_supervised/gt_label"], masks=masks, known=masks > -1)
        elif supervised:
            truth = Truth(
                labels=torch.ones(2), masks=torch.zeros(2, 16, 16), known=torch.zeros(2) > 0
            )
        detector, seen = one.detector.train(), {}
        detector.segment.register_forward_hook(
            lambda _, given, said: seen.update(noised=given[0], map=said)
        )
        detector.classify.register_forward_hook(lambda _, given, said: seen.update(logit=said))
        (optimization,) = one.optimizers(1)
        losses = one.compare(features, golden["train/noise"], golden["train/perlin_mask"], truth)
        for name, loss in zip(
            ("l1_normal", "l1_anomalous", "focal_map", "focal_score"), losses.values(), strict=True
        ):
            golden.check(loss.detach(), f"{case}/loss.{name}", TOLERANCE)
        total = sum(losses.values())
        total.backward()
        golden.check(total.detach(), f"{case}/loss.total", TOLERANCE)
        golden.check(seen["noised"].detach(), f"{case}/noised_features", TOLERANCE)
        golden.check(seen["map"].detach(), f"{case}/seg_map", TOLERANCE)
        golden.check(seen["logit"].detach(), f"{case}/cls_logit", TOLERANCE)
        asked = questions(golden["train/perlin_mask"], truth)
        golden.check(asked.masks, f"{case}/target_mask", TOLERANCE)
        golden.check(asked.labels, f"{case}/target_label", TOLERANCE)
        norm = detector.segment[1]
        for key in ("running_mean", "running_var"):
            golden.check(
                norm.get_buffer(key), f"{case}/after_forward.seg_head.batchnorm.{key}", TOLERANCE
            )
        weights = {
            "adaptor.weight": detector.adapt.weight,
            "seg_head.last.weight": detector.segment[3].weight,
        }
        grads = {**weights, "cls_head.linear.weight": detector.classify.linear.weight}
        for name, weight in grads.items():
            golden.check(weight.grad, f"{case}/grad.{name}", TOLERANCE)
        parameters = [p for group in optimization.optimizer.param_groups for p in group["params"]]
        limit = optimization.clip_norm or torch.inf
        golden.check(nn.utils.clip_grad_norm_(parameters, limit), f"{case}/grad_norm", TOLERANCE)
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        optimization.optimizer.step()
        for name, weight in weights.items():
            golden.check_change(
                before[name], weight.detach(), f"{case}/after_step.{name}", name, TOLERANCE
            )


def test_masks_at_the_size_of_features():
    with Golden("foundation_supersimplenet", only="mask_downsample") as golden:
        masks = golden["mask_downsample/in"].float()
        golden.check(masks_at(masks, (16, 16)), "mask_downsample/out", TOLERANCE)
