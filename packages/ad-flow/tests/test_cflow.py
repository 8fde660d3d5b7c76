"""CFlow: what it learns from, in which parts, and what it refuses. Numbers are in test_golden."""

import math
from dataclasses import replace

import pytest
import torch

from ad.core import LearningBatch, Setup
from ad.core.errors import NotFittedError, SettingError
from ad.flow.cflow import CflowTrainer, fibres_of, rate
from ad.flow.positions import position_code

SIZE = 32


def build(setup=None, **options):
    setup = setup or Setup(img_size=SIZE, normalize=True, weights="random", batch_size=2)
    small = {"backbone": "resnet18", "coupling_blocks": 1, "condition_dim": 8, "fiber_batch": 30}
    return CflowTrainer(setup, **{**small, **options})


@pytest.fixture
def trainer():
    return build()


def pictures(count=3, size=(SIZE, SIZE)):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0))


def batch_of(trainer, images, **where):
    with torch.no_grad():
        frozen = tuple(trainer.frozen(images))
    indices = tuple(range(len(images)))
    return LearningBatch(
        images=images, frozen=frozen, indices=indices, **{"epoch": 0, "seed": 0, **where}
    )


class Data:
    def __init__(self, *batches):
        self.all = batches

    def batches(self, size):
        return iter(self.all)


def asked_of(trainer, batch, monkeypatch):
    """Layer, fibres and positions of each update of a batch."""
    asked = []
    likelihood = trainer.detector.likelihood

    def listening(layer, fibres, positions=None):
        asked.append((layer, fibres, positions))
        return likelihood(layer, fibres, positions)

    monkeypatch.setattr(trainer.detector, "likelihood", listening)
    for update in range(trainer.num_updates()):
        trainer.losses(replace(batch, update=update))
    return asked


@pytest.mark.parametrize("count", [1, 2])
def test_a_batch_is_learnt_from_fibre_by_fibre(trainer, monkeypatch, count):
    """Each one once, with its own position, in parts of at most `fiber_batch`."""
    batch = batch_of(trainer, pictures(count))
    asked = asked_of(trainer, batch, monkeypatch)
    assert [layer for layer, _, _ in asked] == [0] * 5 + [1] * 2 + [2]  # 128, 32, 8 by 30
    assert all(0 < len(fibres) <= 30 for _, fibres, _ in asked)
    for layer, map_ in enumerate(batch.frozen):
        own = [(f, p) for number, f, p in asked if number == layer]
        seen = {
            (int(position), fibre.numpy().tobytes())
            for fibres, positions in own
            for fibre, position in zip(fibres, positions, strict=True)
        }
        assert sum(len(fibres) for fibres, _ in own) == map_[:, 0].numel()
        assert seen == {
            (row * map_.shape[3] + column, map_[picture, :, row, column].numpy().tobytes())
            for picture in range(count)
            for row in range(map_.shape[2])
            for column in range(map_.shape[3])
        }


def test_parts_mix_pictures_and_change_with_the_step(trainer, monkeypatch):
    batch = batch_of(trainer, pictures(2))
    first, again, later = (
        asked_of(trainer, replace(batch, step=step), monkeypatch)[0][2] for step in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, first.sort().values)


@pytest.mark.parametrize(("fibres", "updates"), [(256, 128 + 32 + 8), (2048, 16 + 4 + 1)])
def test_how_many_updates_a_batch_of_the_catalogue_gives(fibres, updates):
    setup = Setup(img_size=256, normalize=True, weights="random", batch_size=8)
    assert build(setup, fiber_batch=fibres).num_updates() == updates


def test_an_update_moves_its_own_flow_alone(trainer):
    (optimization,) = trainer.optimizers(1)
    before = [p.detach().clone() for p in trainer.detector.flows.parameters()]
    trainer.losses(batch_of(trainer, pictures(2), update=5))["layer2"].backward()
    optimization.optimizer.step()
    for number, flow in enumerate(trainer.detector.flows):
        old, before = before[: len([*flow.parameters()])], before[len([*flow.parameters()]) :]
        same = [torch.equal(p, q) for p, q in zip(flow.parameters(), old, strict=True)]
        assert all(same) if number != 1 else not all(same)


def test_likelihoods_are_of_the_fibre_and_its_position(trainer):
    (maps, *_) = batch_of(trainer, pictures(2)).frozen
    fibres = fibres_of(maps)
    whole = trainer.detector.likelihood(0, fibres)
    rows = torch.tensor([70, 3, 127])
    torch.testing.assert_close(trainer.detector.likelihood(0, fibres[rows], rows % 64), whole[rows])
    elsewhere = trainer.detector.likelihood(0, fibres[rows], (rows + 1) % 64)
    assert ((elsewhere - whole[rows]).abs() > 1e-6).all()
    assert torch.equal(fibres[70], maps[1, :, 0, 6])


def test_position_codes():
    code = position_code(16, 5, 7)
    assert torch.equal(code[:, 0, 0], torch.tensor([0.0, 1.0] * 8))
    for k in range(4):  # by hand, of row 3 and column 6
        frequency = 10_000 ** (-2 * k / 8)
        for start, place in ((0, 6), (8, 3)):
            expected = [math.sin(place * frequency), math.cos(place * frequency)]
            at = code[start + 2 * k : start + 2 * k + 2, 3, 6].tolist()
            assert at == pytest.approx(expected, abs=1e-6)


def test_it_has_as_many_parameters_as_the_authors_flows():
    options = {"coupling_blocks": 8, "condition_dim": 128}
    flows = build(fiber_batch=2048, **options).detector.flows
    assert sum(p.numel() for p in flows.parameters()) == pytest.approx(3.67e6, rel=0.01)


def test_the_rate_climbs_and_then_goes_down_in_stairs():
    rates = [rate(step, 1000) for step in range(1000)]
    assert rates[0] == 0.1
    assert rates[:80] == sorted(rates[:80])
    assert len(set(rates[80:])) == 23
    assert rates[80:] == sorted(rates[80:], reverse=True)
    assert rates[-1] == pytest.approx(9.88e-7 / 2e-4, rel=1e-3)
    assert [rate(step, 1) for step in range(1)] == [0.1]


def test_what_likelihoods_are_compared_to_is_the_largest_of_the_training_pictures(trainer):
    detector = trainer.detector
    with pytest.raises(NotFittedError):
        detector(pictures(1))
    images = pictures(5)
    trainer.conclude(Data(*(batch_of(trainer, part) for part in images.split(2))), None)
    for layer, map_ in enumerate(trainer.frozen(images)):
        expected = detector.likelihood(layer, fibres_of(map_)).max()
        torch.testing.assert_close(detector.largest[layer], expected)
    with torch.inference_mode():
        together, alone = detector(images), detector(images[:1])
    torch.testing.assert_close(together.map[:1], alone.map)
    assert together.map.max() <= 3


def test_it_can_be_exported(trainer):
    images = pictures(2)
    trainer.conclude(Data(batch_of(trainer, images)), None)
    exported = torch.export.export(trainer.detector, (images,), strict=False).module()
    with torch.inference_mode():
        expected, got = trainer.detector(images), exported(images)
    torch.testing.assert_close(got[0], expected.score)
    torch.testing.assert_close(got[1], expected.map)


def test_rectangles_are_mapped_in_their_own_shape():
    made = build(Setup(img_size=(48, 40), normalize=True, weights="random"))
    images = pictures(2, (48, 40))
    made.conclude(Data(batch_of(made, images)), None)
    with torch.inference_mode():
        assert made.detector(images).map.shape == (2, 48, 40)


def test_parts_that_a_last_picture_could_not_fill_are_refused():
    words = r"`fiber_batch` of CFlow must be at least `batch_size`, 64: .*; got 32\."
    with pytest.raises(SettingError, match=words):
        build(Setup(img_size=SIZE, normalize=True, weights="random", batch_size=64), fiber_batch=32)


def test_pictures_of_another_size_are_refused(trainer):
    trainer.conclude(Data(batch_of(trainer, pictures())), None)
    words = r"CFlow was trained at 32 x 32 pixels .*; got 32 x 48 pixels\. Resize the pictures"
    with pytest.raises(SettingError, match=words):
        trainer.detector(pictures(1, (32, 48)))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("condition_dim", 6, "multiple of 4; got 6"),
        ("fiber_batch", 0, "greater than or equal to 1; got 0"),
        ("permute", "none", "'soft' or 'hard'; got 'none'"),
    ],
)
def test_options_beyond_their_limits_are_refused(option, value, words):
    with pytest.raises(SettingError, match=f"Option `{option}` of `CflowTrainer`: .*{words}"):
        build(**{option: value})
