"""UniNet against golden numbers of the authors' code; see `golden`."""

import pytest
import torch
import torch.nn.functional as F
from golden import Golden, check_close, needs_golden

from ad.core import Truth
from ad.core.networks import GaussianBlur, ResidualDecoder
from ad.foundation.uninet.network import Bottleneck, sum_of_maps, weighted_decision
from ad.foundation.uninet.trainer import contrastive_loss, selected

pytestmark = needs_golden

TOLERANCE = 2e-5


def pairs_of(golden):
    return list(zip(golden.layers("teacher."), golden.layers("student."), strict=True))


@pytest.mark.parametrize(
    ("case", "temperature"),
    [
        *((f"T{t}_dfs", t) for t in (0.1, 0.4, 2)),
        ("T0.4_dfs_stop_teacher", 0.4),
        ("T0.4_nodfs", 0.4),
    ],
)
def test_the_loss(case, temperature):
    """A stopped teacher still has the gradient of the weights that features are selected by."""
    only = ("teacher.", "student.", "selected", f"loss/{case}/")
    with Golden("foundation_uninet", only=only) as golden:
        pairs = [tuple(maps.requires_grad_() for maps in pair) for pair in pairs_of(golden)]
        losses = []
        for number, (taught, learnt) in enumerate(pairs):
            chosen = selected(taught, learnt)
            golden.check(chosen.detach(), f"selected_student.{number}", TOLERANCE)
            chosen = learnt if case.endswith("nodfs") else chosen
            told = taught.detach() if case.endswith("stop_teacher") else taught
            losses.append(contrastive_loss(told, chosen, temperature))
        sum(losses).backward()
        golden.check(sum(losses).detach(), f"loss/{case}/value", TOLERANCE)
        for number, (taught, learnt) in enumerate(pairs):
            golden.check(learnt.grad, f"loss/{case}/grad.student.{number}", TOLERANCE)
            theirs = golden[f"loss/{case}/grad.teacher.{number}"]
            ours = torch.zeros_like(taught) if taught.grad is None else taught.grad
            check_close(ours, theirs, TOLERANCE, f"gradient of teacher {number}")
            if case.endswith("nodfs"):
                golden.check(losses[number].detach(), f"loss/{case}/pair.{number}", TOLERANCE)


def test_the_loss_with_a_mask():
    only = ("teacher.", "student.", "loss/supervised")
    with Golden("foundation_uninet", only=only) as golden:
        taught, learnt = pairs_of(golden)[0]
        masks = golden["loss/supervised_level0/mask"][:, 0]
        truth = Truth(labels=masks.amax((1, 2)), masks=masks, known=torch.ones(2) > 0)
        loss = contrastive_loss(taught, learnt, 0.4, truth)
        golden.check(loss, "loss/supervised_level0/value", TOLERANCE)


def test_the_map_and_the_score():
    with Golden("foundation_uninet", only=("teacher.", "student.", "map/", "score/")) as golden:
        angles = [1 - F.cosine_similarity(*pair, dim=1) for pair in pairs_of(golden)]
        for number, angle in enumerate(angles):
            golden.check(angle, f"map/pair.{number}", TOLERANCE)
        largest = torch.stack([angle.amax(dim=(1, 2)) for angle in angles], dim=1)
        golden.check(largest, "score/q", TOLERANCE)
        for side in (64, 256):
            summed = sum_of_maps(angles, (side, side))
            shown = summed if side == 64 else summed[:, ::8, ::8]
            golden.check(shown, f"map/sum_{side}", TOLERANCE)
            for alpha, name in ((0.01, ""), (0.3, "_alpha0.3")):
                score = weighted_decision(
                    GaussianBlur(4.0)(summed), largest, alpha=alpha, beta=3e-5
                )
                golden.check(score, f"score/size{side}{name}", TOLERANCE)


def test_the_networks():
    with Golden("foundation_uninet_network") as golden:
        bottleneck, student = Bottleneck(2, 3), ResidualDecoder(2, (3, 4, 6))
        golden.fill(bottleneck.from_first, "bottleneck/level1.")
        golden.fill(bottleneck.from_second, "bottleneck/level2.")
        for number, block in enumerate(bottleneck.stage):
            for branch, name in ((block.first, "branch_a"), (block.second, "branch_b")):
                for place, part in (
                    (0, "conv1"),
                    (1, "batchnorm1"),
                    (3, "conv2"),
                    (4, "batchnorm2"),
                ):
                    golden.fill(branch[place], f"bottleneck/block{number}.{name}.{part}.")
            golden.fill(block.merge, f"bottleneck/block{number}.merge.")
            if number == 0:
                golden.fill(block.side, "bottleneck/block0.shortcut.")
        for depth, stage in enumerate(student.stages, start=1):
            for number, block in enumerate(stage):
                golden.fill(block, f"student/stage{depth}.block{number}.")
        maps = [golden.input(f"level{level}") for level in (1, 2, 3)]
        with torch.inference_mode():
            code = bottleneck.eval()(maps)
            rebuilt = student.eval()(code)
            in_training = bottleneck.train()(maps)
        golden.check(code, "bottleneck_output", 1e-3)
        golden.check(in_training, "bottleneck_output_train_mode", 1e-3)
        for number, outputs in enumerate(rebuilt):
            golden.check(outputs[:, ::8], f"student_output.{number}.every8th_channel", 1e-3)
            spread = torch.stack([outputs.mean(), outputs.std()])
            golden.check(spread, f"student_output.{number}.mean_std", 1e-3)
