import math

import pytest
import torch
import torch.nn.functional as F

from ad.core import LearningBatch, PictureSet, Setup, Truth, fit
from ad.core.detector import mark_trained
from ad.core.errors import DataError, NotFittedError, SettingError
from ad.core.testing import make_picture
from ad.foundation.uninet import trainer as learning
from ad.foundation.uninet.network import TwoBranchBlock, weighted_decision
from ad.foundation.uninet.trainer import UninetTrainer, contrastive_loss, selected

SIZE = 64


def trainer(options=None, **changes):
    values = {"img_size": SIZE, "normalize": True, "weights": "random", "batch_size": 4}
    options = {"student": "resnet18", "teacher": "resnet18", **(options or {})}
    return UninetTrainer(Setup(**{**values, **changes}), **options)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(taught, learnt, temperature, good, defective):
    """The loss in float64, position by position."""
    far, apart, close = [], [], []
    for b in range(len(taught)):
        t, s = (maps[b].double().flatten(1).T for maps in (taught, learnt))
        cosines = torch.tensor(
            [[(x @ y / (x.norm() * y.norm())).item() for y in t] for x in s], dtype=torch.float64
        )
        odds = (cosines / temperature).exp()
        share = odds.diag() / odds.sum(1)
        far += [1 - c for c in cosines.diag()]
        for place, d in enumerate(share):
            if good[b].flatten()[place]:
                apart.append(-0.3 * math.log(d + 1e-8) + max(0, 1 - d))
            if defective[b].flatten()[place]:
                close.append(max(0, d - 0.5))
    mean = lambda values: sum(values) / max(1, len(values))  # noqa: E731
    return 0.7 * mean(far) + mean(apart) + mean(close)


@pytest.mark.parametrize("rows", [1024, 5])
def test_the_loss_is_its_formula_however_many_rows_are_there_at_once(rows, monkeypatch):
    monkeypatch.setattr(learning, "_ROWS", rows)
    taught = (noise(2, 6, 3, 4) - 0.3).requires_grad_()
    learnt = (noise(2, 6, 3, 4, seed=1) - 0.3).requires_grad_()
    loss = contrastive_loss(taught, learnt, 0.2)
    everywhere, nowhere = torch.ones(2, 3, 4), torch.zeros(2, 3, 4)
    expected = by_hand(taught, learnt, 0.2, everywhere, nowhere)
    torch.testing.assert_close(loss.item(), float(expected), atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(loss, (taught, learnt))
    monkeypatch.setattr(learning, "_ROWS", 1024)
    whole = torch.autograd.grad(contrastive_loss(taught, learnt, 0.2), (taught, learnt))
    torch.testing.assert_close(gradients, whole)


def test_masks_are_brought_to_the_level_and_used():
    taught, learnt = noise(2, 6, 4, 4), noise(2, 6, 4, 4, seed=1)
    masks = torch.zeros(2, 16, 16)
    masks[1, 4:12, :8] = 1
    truth = Truth(labels=torch.tensor([0.0, 1.0]), masks=masks, known=torch.ones(2) > 0)
    cells = masks[:, ::4, ::4]
    # Sharp enough that some positions are above the margin.
    learnt[1] = taught[1] + 0.01 * learnt[1]
    loss = contrastive_loss(taught, learnt, 0.02, truth)
    expected = by_hand(taught, learnt, 0.02, 1 - cells, cells)
    torch.testing.assert_close(loss.item(), float(expected), atol=1e-4, rtol=1e-4)
    assert loss > contrastive_loss(taught, learnt, 0.02) + 0.3  # for being right about a defect


def test_a_defective_picture_without_a_mask_does_not_count():
    taught, learnt = noise(3, 6, 4, 4), noise(3, 6, 4, 4, seed=1)
    truth = Truth(
        labels=torch.tensor([0.0, 1.0, 0.0]),
        masks=torch.zeros(3, 16, 16),
        known=torch.tensor([True, False, True]),
    )
    loss = contrastive_loss(taught, learnt, 0.4, truth)
    without = contrastive_loss(taught[[0, 2]], learnt[[0, 2]], 0.4)
    torch.testing.assert_close(loss, without)
    none = Truth(labels=torch.ones(3), masks=truth.masks, known=torch.zeros(3) > 0)
    assert contrastive_loss(taught, learnt, 0.4, none) == 0


def test_selection_weighs_each_channel_by_where_the_teacher_says_the_most():
    taught, learnt = noise(1, 2, 2, 3), noise(1, 2, 2, 3, seed=1)
    for channel in range(2):
        t = taught[0, channel].double()
        weight = t.exp() / t.exp().sum() * (1 + t.mean())
        expected = learnt[0, channel] * weight
        torch.testing.assert_close(selected(taught, learnt)[0, channel].double(), expected)


def scored(pixels, largest, alpha, beta):
    """A picture at a time, in Python's own numbers."""
    odds = [math.exp(q) for q in largest]
    mean = sum(odds) / len(odds)
    kept = [q for q, o in zip(largest, odds, strict=True) if o > mean]
    share = max(alpha * sum(kept) / len(kept), beta) if kept else beta
    count = min(len(pixels), max(1, int(len(pixels) * share)))
    return sum(sorted(pixels, reverse=True)[:count]) / count


@pytest.mark.parametrize(("alpha", "beta"), [(0.01, 3e-5), (0.3, 3e-5), (1.0, 0.0), (0.001, 0.2)])
def test_the_score_of_a_picture_depends_on_its_own_maxima(alpha, beta):
    maps, largest = noise(5, 16, 24), 2 * noise(5, 6, seed=1)
    found = weighted_decision(maps, largest, alpha=alpha, beta=beta)
    expected = [
        scored(pixels.flatten().tolist(), q.tolist(), alpha, beta)
        for pixels, q in zip(maps, largest, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_equal_maxima_count_by_the_least_share_and_give_a_number():
    maps = noise(3, 10, 10)
    for value in (0.0, 0.1, 1 / 3):
        found = weighted_decision(maps, torch.full((3, 6), value), alpha=1.0, beta=0.05)
        top = maps.flatten(1).topk(5).values.mean(dim=1)
        torch.testing.assert_close(found, top)


def test_the_student_meets_the_other_teacher():
    one = trainer()
    detector, images = one.detector.eval(), noise(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        source = detector.source(images)
        detector.target.conv1.weight.mul_(0.5)  # so that the teachers differ
        target = detector.source.show(images, detector.target)
        of_source = detector.student(detector.bottleneck(source))
        of_target = detector.student(detector.bottleneck(target))
        pairs = detector.pairs(images, source)
    expected = [*zip(source, of_target, strict=True), *zip(target, of_source, strict=True)]
    for pair, other in zip(pairs, expected, strict=True):
        torch.testing.assert_close(pair, other, rtol=1e-4, atol=1e-5)


def test_the_map_is_the_sum_of_the_angles_and_smoothed_if_asked_for():
    one = trainer()
    mark_trained(one.detector)
    images = noise(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        plain = one.detector(images)
        one.detector.smooth_map = True
        smooth = one.detector(images)
        expected = sum(
            F.interpolate(
                (1 - F.cosine_similarity(*pair, dim=1))[:, None],
                (SIZE, SIZE), mode="bilinear", align_corners=True,
            )[:, 0]
            for pair in one.detector.pairs(images, one.detector.source(images))
        )  # fmt: skip
    torch.testing.assert_close(plain.map, expected)
    torch.testing.assert_close(smooth.map, one.detector.blur(expected))
    assert torch.equal(plain.score, smooth.score)


def test_the_numbers_of_the_paper_are_the_defaults():
    (optimization,) = trainer().optimizers(10)
    groups = optimization.optimizer.param_groups
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(5e-3, 1e-5), (1e-6, 1e-5)]


def test_one_teacher_stays_and_the_other_one_adapts():
    one = trainer(num_epochs=1)
    before = {k: v.clone() for k, v in one.detector.source.net.state_dict().items()}
    fit(one, PictureSet([make_picture(i, size=SIZE)[0] for i in range(4)], SIZE))
    after = one.detector.target.state_dict()
    for name, tensor in one.detector.source.net.state_dict().items():
        assert torch.equal(tensor, before[name])
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {"conv1.weight", "layer1.0.bn1.running_mean"} <= changed
    assert not any(p.requires_grad for p in one.detector.parameters())


def test_both_branches_see_half_of_the_channels():
    block = TwoBranchBlock(8, 4, 8).eval()
    x = noise(1, 8, 3, 3)
    other = x.clone()
    other[:, 4:] += 1
    assert torch.equal(block.first(x[:, :4]), block.first(other[:, :4]))
    assert block.second[0].bias is not None
    assert block.first[0].bias is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"student": "resnet101"}, "`student` of UniNet must be one of `resnet18`.*`resnet101`"),
        ({"teacher": "vgg16"}, "`teacher` of UniNet must be one of .*; got `vgg16`"),
        ({"student": "resnet50"}, "`student` `resnet50` .*another width than `teacher` `resnet18`"),
    ],
)
def test_networks_that_cannot_be_compared_are_refused(options, words):
    with pytest.raises(SettingError, match=words):
        trainer(options)


def test_pictures_of_other_sizes_are_refused():
    with pytest.raises(SettingError, match="must be a multiple of 32, .*; got 40. Near it are"):
        trainer(img_size=40)
    one = trainer()
    mark_trained(one.detector)
    with pytest.raises(SettingError, match="sides are multiples of 32 pixels; got 40 x 64"):
        one.detector(noise(1, 3, 40, SIZE))


def supervised(masks):
    one = trainer({"supervised": True})
    bad = [make_picture(100 + i, size=SIZE, defect=True) for i in range(2)]
    good = [make_picture(i, size=SIZE)[0] for i in range(3)]
    pictures = PictureSet([*good, *(one for one, _ in bad)], SIZE)
    found = {3 + i: mask if i < masks else None for i, (_, mask) in enumerate(bad)}
    fit(one, pictures, defects=found)
    return one


def test_defects_without_masks_are_told_of():
    one = supervised(1)
    assert one.notes[0].startswith("1 defective pictures have no mask that marks anything")
    assert trainer().notes == ()


def test_no_masks_at_all_are_refused():
    with pytest.raises(DataError, match="none of the 2 has one that marks anything. Give masks"):
        supervised(0)


def test_an_untrained_one_gives_no_scores():
    with pytest.raises(NotFittedError, match="`trained` is empty"):
        trainer().detector(noise(1, 3, SIZE, SIZE))


def test_defective_cells_are_pushed_below_the_margin_only():
    """With masks everywhere only the cosine and what is above the margin are left."""
    maps = noise(1, 6, 2, 2)
    everywhere = Truth(labels=torch.ones(1), masks=torch.ones(1, 2, 2), known=torch.ones(1) > 0)
    sharp = contrastive_loss(maps, maps, 0.01, everywhere)
    flat = contrastive_loss(maps, maps, 100.0, everywhere)
    assert sharp > 0.2
    assert flat.abs() < 1e-6


def test_losses_are_sums_over_the_layers_of_each_teacher():
    one = trainer({"select": False})
    images = noise(2, 3, SIZE, SIZE)
    batch = LearningBatch(
        images=images, frozen=tuple(one.frozen(images)), indices=(0, 1), epoch=0, seed=0
    )
    with torch.inference_mode():
        losses = one.losses(batch)
        each = [
            contrastive_loss(*pair, one.temperature)
            for pair in one.detector.pairs(images, batch.frozen)
        ]
    torch.testing.assert_close(losses["source"], sum(each[:3]))
    torch.testing.assert_close(losses["target"], sum(each[3:]))
