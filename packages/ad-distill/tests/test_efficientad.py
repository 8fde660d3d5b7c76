"""EfficientAD: its losses, its scale, and that everything random belongs to a picture."""

import copy
import hashlib
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ad.core import (
    FROM_MODEL_FILE,
    Callback,
    Checkpoints,
    LearningBatch,
    LearningData,
    PictureSet,
    Setup,
    fit,
    to_device,
)
from ad.core.errors import DataError, NotFittedError, SettingError
from ad.core.saved.files import read_model, save_model
from ad.core.saved.loading import load_tensors
from ad.core.testing import make_picture
from ad.distill.efficientad import network
from ad.distill.efficientad.network import AutoEncoder
from ad.distill.efficientad.trainer import EfficientadTrainer, PenaltyPictures, jitter
from ad.distill.models import EFFICIENTAD, EFFICIENTAD_MEDIUM, EFFICIENTAD_SMALL
from ad.distill.pdn import CHANNELS

GOLDEN = Path(__file__).parents[4] / "shared/golden/landed_efficientad.safetensors"


SIZE = 64


CPU = torch.device("cpu")


def setup(**changes):
    values = {"img_size": SIZE, "normalize": False, "batch_size": 2, "weights": "random"}
    return Setup(**{**values, **changes})


def build(*, penalty="", setting=None, **options):
    return EfficientadTrainer(setting or setup(), model_size="small", penalty=penalty, **options)


def pictures(count=4, *, start=0):
    return PictureSet([make_picture(start + i, size=SIZE)[0] for i in range(count)], SIZE)


def images(count=4, *, start=0):
    (batch,) = pictures(count, start=start).batches(count)
    return to_device(batch.pictures, CPU)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def penalty(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number in range(3):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "deep" / f"{number}.png")
    return str(folder)


@pytest.fixture(scope="module")
def trained():
    trainer = build()
    fit(trainer, pictures(6), held_out=pictures(3, start=50))
    return trainer


def prepared(**options):
    """A trainer before its first step, and a batch for it."""
    trainer = build(**options)
    data = LearningData(pictures(2), CPU, trainer.frozen)
    trainer.prepare(data)
    (batch,) = data.batches(2)
    return trainer, batch


def test_parameters_are_those_of_the_paper():
    # By hand: encoder 1 568 + 16 416 + 32 832 + 2 x 65 600 + 262 208, decoder 6 x 65 600 + 36 928
    # + 221 568.
    assert sum(p.numel() for p in AutoEncoder(256).parameters()) == 1_096_320
    detector = build(setting=setup(img_size=256)).detector
    assert sum(p.numel() for p in detector.parameters()) == 8_057_856  # the paper's 8 million


def test_penalty_pictures_are_the_middle_and_sometimes_grey(penalty):
    drawn = PenaltyPictures(Path(penalty), SIZE)
    grey = 0
    for seed in range(100):
        picture = drawn.draw(generator(seed))
        assert picture.shape == (SIZE, SIZE, 3)
        assert picture.dtype == torch.uint8
        assert torch.equal(picture, PenaltyPictures(Path(penalty), SIZE).draw(generator(seed)))
        grey += int((picture == picture[..., :1]).all())
    assert 15 <= grey <= 45


def test_what_is_random_depends_on_seed_epoch_and_picture_alone(penalty):
    trainer, batch = prepared(penalty=penalty)
    trainer.detector.eval()  # without dropout, which the loop seeds for each step

    def losses(rows, epoch=0, seed=0):
        part = LearningBatch(
            images=batch.images[rows],
            frozen=(batch.frozen[0][rows],),
            indices=tuple(rows),
            epoch=epoch,
            seed=seed,
        )
        with torch.no_grad():
            return {name: value.item() for name, value in trainer.losses(part).items()}

    both, first, second = losses([0, 1]), losses([0]), losses([1])
    assert losses([0, 1]) == both
    assert losses([1, 0]) == pytest.approx(both, rel=1e-4)
    for name, value in both.items():  # of a batch, the mean of its pictures'
        assert (first[name] + second[name]) / 2 == pytest.approx(value, rel=1e-4)
    others = [losses([0], epoch=epoch) for epoch in (1, 2, 3)] + [losses([0], seed=1)]
    for name in ("penalty", "autoencoder", "global"):
        assert len({first[name], *(other[name] for other in others)}) > 2
    assert {other["hard"] for other in others} == {first["hard"]}


def test_losses_are_the_textbooks(penalty):
    trainer, batch = prepared(penalty=penalty)
    detector = trainer.detector.eval()
    losses = trainer.losses(batch)
    changed, others = [], []
    for row in range(2):
        source = batch.generator(row)
        changed.append(jitter(batch.images[row], source))
        others.append(trainer.penalty.draw(source))
    x, x_changed = detector.normalize(batch.images), detector.normalize(torch.stack(changed))
    x_other = detector.normalize(to_device(torch.stack(others), CPU))
    gap = (detector.scale(detector.teacher(x)) - detector.student(x)[:, :CHANNELS]).square()
    hard = [one[one >= np.quantile(one.detach().numpy(), 0.999)].mean() for one in gap]
    rebuilt = detector.autoencoder(x_changed)
    expected = {
        "hard": torch.stack(hard).mean(),
        "penalty": detector.student(x_other)[:, :CHANNELS].square().mean(),
        "autoencoder": (detector.scale(detector.teacher(x_changed)) - rebuilt).square().mean(),
        "global": (rebuilt - detector.student(x_changed)[:, CHANNELS:]).square().mean(),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6)


def test_each_term_reaches_what_it_should(penalty):
    trainer, batch = prepared(penalty=penalty)
    detector = trainer.detector
    last = detector.student.layers[-1].weight
    reached = {}
    losses = trainer.losses(batch)
    for name, value in losses.items():
        detector.zero_grad()
        value.backward(retain_graph=True)
        assert all(p.grad is None for p in detector.teacher.parameters())
        outputs = torch.zeros(2 * CHANNELS) if last.grad is None else last.grad.abs().sum((1, 2, 3))
        autoencoder = any(p.grad is not None for p in detector.autoencoder.parameters())
        reached[name] = (
            bool(outputs[:CHANNELS].any()), bool(outputs[CHANNELS:].any()), autoencoder
        )  # fmt: skip
    assert reached == {
        "hard": (True, False, False),
        "penalty": (True, False, False),
        "autoencoder": (False, False, True),
        "global": (False, True, True),
    }


def test_the_rate_is_a_tenth_in_the_last_twentieth_of_the_real_steps():
    (optimization,) = build().optimizers(200)
    assert [optimization.schedule(step) for step in (0, 189, 190, 199)] == [1, 1, 0.1, 0.1]
    (group,) = optimization.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-4, 1e-5)
    assert all(p.requires_grad for p in group["params"])


def test_the_quantiles_of_held_out_maps_become_0_and_a_tenth(trained):
    detector = trained.detector
    raw = detector.maps(images(3, start=50), detector.teach(images(3, start=50)))
    for values, (low, high) in zip(raw, detector.quantiles, strict=True):
        scaled = 0.1 * (values - low) / (high - low)
        at = np.quantile(scaled.detach().numpy(), (0.9, 0.995))
        np.testing.assert_allclose(at, (0, 0.1), atol=1e-4)


def test_a_map_is_half_of_each_with_a_border_of_0(trained):
    detector, some = trained.detector, images(2, start=70)
    with torch.no_grad():
        prediction = detector(some)
        raw = detector.maps(some, detector.teach(some))
    halves = [
        0.5 * 0.1 * (values - low) / (high - low)
        for values, (low, high) in zip(raw, detector.quantiles, strict=True)
    ]
    whole = torch.zeros(2, SIZE // 4, SIZE // 4)
    whole[:, 4:-4, 4:-4] = halves[0] + halves[1]
    expected = torch.nn.functional.interpolate(whole[:, None], SIZE, mode="bilinear")[:, 0]
    torch.testing.assert_close(prediction.map, expected)
    assert (prediction.map[:, :14] == 0).all()


def with_cells(trained, cells):
    """What a detector says of pictures of 64 pixels whose scaled map has these values."""
    detector = copy.deepcopy(trained.detector)
    detector.quantiles = torch.tensor([[0.0, 0.05], [0.0, 0.05]])
    raw = network.RawMaps(cells / 2, cells / 2)
    detector.maps = lambda images, taught: raw
    with torch.no_grad():
        return detector(torch.zeros(len(cells), 3, SIZE, SIZE))


def linear(values, pixels):
    """Bilinear values of cells at pixels along one axis, held beyond the ends."""
    place = (np.arange(pixels) + 0.5) * len(values) / pixels - 0.5
    return np.interp(place, np.arange(len(values)), values)


def test_a_score_is_from_inside_the_border(trained):
    cells = torch.randn(40, 8, 8, generator=generator())
    cells -= torch.linspace(0, 6, 40)[:, None, None]  # from good and bad cells to good ones alone
    found = with_cells(trained, cells)
    for score, map_, own in zip(found.score, found.map, cells.double().numpy(), strict=True):
        rows = np.stack([linear(row, 32) for row in own])  # inside alone, 4 pixels a cell
        inside = np.stack([linear(column, 32) for column in rows.T]).T
        if map_.max() > 0:  # as in the paper
            assert score == map_.max()
            assert inside.max() > 0
        else:
            np.testing.assert_allclose(score, inside.max(), rtol=1e-5)
            assert score <= 0
    assert (found.score < 0).sum() > 10
    assert len(found.score.unique()) == 40, "no two tie"


@pytest.mark.data
@pytest.mark.skipif(not GOLDEN.is_file(), reason="no golden numbers in ../shared")
def test_maps_and_scores_above_0_are_those_of_others(trained):
    golden = load_file(GOLDEN)
    found = with_cells(trained, golden["maps/combined"][:, 0])
    torch.testing.assert_close(found.map, golden["maps/padded_up64"][:, 0], rtol=0, atol=4e-7)
    torch.testing.assert_close(found.score, golden["maps/score"], rtol=1e-5, atol=0)
    assert (found.score > 0).all()


def test_a_picture_that_is_good_everywhere_scores_below_0(trained):
    cells = torch.full((2, 8, 8), -1.0)
    cells[1, 3, 3] = -2
    found = with_cells(trained, cells)
    torch.testing.assert_close(found.score, torch.tensor([-1.0, -1.0]))
    assert found.map.max() == 0
    assert (found.map[:, :14] == 0).all()


def test_a_score_does_not_depend_on_the_batch_and_nothing_is_dropped(trained):
    some = images(3, start=70)
    with torch.no_grad():
        whole = trained.detector(some)
        alone = torch.cat([trained.detector(one[None]).score for one in some])
        again = trained.detector(some)
    torch.testing.assert_close(whole.score, alone, rtol=1e-4, atol=1e-4)
    assert torch.equal(whole.map, again.map)


def test_a_cpu_takes_pictures_one_by_one_and_a_graph_all_at_once(trained, monkeypatch):
    """But for the auto-encoder, whose maps are small."""
    seen = []
    detector, some = trained.detector, images(3, start=70)
    hooks = [
        part.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
        for part in (detector.teacher.net.layers, detector.student.layers, detector.scale)
    ]
    with torch.no_grad():
        by_ones = detector(some)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        at_once = detector(some)
    for hook in hooks:
        hook.remove()
    assert seen == [1] * 9 + [3] * 3
    torch.testing.assert_close(by_ones.map, at_once.map, rtol=1e-4, atol=1e-4)


def test_a_defect_scores_higher_where_it_is(trained):
    picture, mask = make_picture(200, size=SIZE, defect=True)
    with torch.no_grad():
        bad = trained.detector(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)
        good = trained.detector(images(4, start=70))
    assert bad.score > good.score.max()
    assert bad.map[0][mask].mean() > bad.map[0][~mask].mean()


def test_the_teacher_never_changes_and_the_rest_does(trained):
    untrained = build().detector
    for name, before in untrained.named_parameters():
        after = trained.detector.get_parameter(name)
        assert torch.equal(before, after) == name.startswith("teacher.")
    assert not trained.detector.train().teacher.training
    assert not trained.detector.eval().training


def test_the_loss_falls_and_the_cache_changes_nothing():
    class Losses(Callback):
        def on_epoch_end(self, state):
            seen.append(state.losses)

    ends = []
    for cache in (True, False):
        seen = []
        trainer = build(setting=setup(num_epochs=2), lr=1e-3)
        fit(trainer, pictures(4), feature_cache=cache, callbacks=[Losses()])
        ends.append(trainer.detector.state_dict())
    assert seen[-1]["hard"] < seen[0]["hard"]
    assert seen[-1]["autoencoder"] < seen[0]["autoencoder"]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_a_killed_run_that_is_resumed_ends_bit_equal(tmp_path, penalty):
    class PowerCut(Exception):
        pass

    class CutsAfterEpoch(Callback):
        def on_epoch_end(self, state):
            if state.epoch == 0:
                raise PowerCut

    def run(checkpoints, *callbacks):
        trainer = build(penalty=penalty, setting=setup(num_epochs=2))
        fit(trainer, pictures(3), checkpoints=checkpoints, callbacks=callbacks)
        return trainer.detector.state_dict()

    whole, always = run(None), Checkpoints(tmp_path, every_seconds=0)
    with pytest.raises(PowerCut):
        run(always, CutsAfterEpoch())
    resumed = run(always)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())


def test_a_saved_one_loads_without_its_inputs_and_scores_the_same(tmp_path, trained):
    save_model(tmp_path / "model", trained.detector, {})
    setting = setup(weights=FROM_MODEL_FILE)
    blank = build(setting=setting, teacher="gone.safetensors", penalty="gone").detector
    with pytest.raises(NotFittedError):
        blank(images(1))
    load_tensors(blank, read_model(tmp_path / "model")[0], "model")
    with torch.no_grad():
        assert torch.equal(blank(images(2)).map, trained.detector(images(2)).map)


def test_notes_say_what_was_gone_without(penalty):
    trainer = build()
    assert any("No penalty pictures" in note and "0.4 points" in note for note in trainer.notes)
    assert any("taught nothing" in note for note in trainer.notes)
    data = LearningData(pictures(2), CPU, trainer.frozen)
    trainer.prepare(data)
    trainer.conclude(data, None)
    assert any("Nothing was held out" in note for note in trainer.notes)
    with torch.no_grad():
        assert trainer.detector(images(1)).score.isfinite()
    assert not any("penalty" in note for note in build(penalty=penalty).notes)


def test_what_else_is_learnt_from_is_known_by_its_content(tmp_path, penalty):
    assert build().inputs == {}
    file = tmp_path / "teacher.safetensors"
    state = build().detector.teacher.net.layers.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    inputs = build(penalty=penalty, teacher=str(file)).inputs
    assert inputs["teacher"] == hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "one").mkdir()
    one = next(path for path in Path(penalty).rglob("*") if path.is_file())
    shutil.copy(one, tmp_path / "one")
    fewer = build(penalty=str(tmp_path / "one"), teacher=str(file)).inputs
    assert fewer["teacher"] == inputs["teacher"]
    assert fewer["penalty"] != inputs["penalty"]


def test_what_cannot_work_is_refused(tmp_path, trained):
    with pytest.raises(SettingError, match="`img_size` of EfficientAD must be at least 64"):
        build(setting=setup(img_size=63))
    with pytest.raises(SettingError, match="`hard_quantile` of .* less than 1; got 1.0"):
        build(hard_quantile=1.0)
    with pytest.raises(SettingError, match="`penalty` must be a folder of everyday pictures"):
        build(penalty=str(tmp_path / "missing"))
    with pytest.raises(DataError, match="has no pictures"):
        build(penalty=str(tmp_path))
    with pytest.raises(SettingError, match="takes pictures from 64 x 64 pixels; got 60 x 64"):
        trained.detector(torch.zeros(1, 3, 60, 64))
    flat = PictureSet([np.full((SIZE, SIZE, 3), 90, np.uint8)] * 2, SIZE)
    with pytest.raises(DataError, match="flat colour"):
        fit(build(), flat)


def test_the_catalogue_has_the_numbers_that_were_agreed():
    for spec, size in ((EFFICIENTAD_SMALL, "small"), (EFFICIENTAD_MEDIUM, "medium")):
        assert spec.model == {"model_size": size}
        assert spec.train == {
            "num_epochs": 20, "batch_size": 1, "img_size": 256, "normalize": False
        }  # fmt: skip
        assert spec.paper_budget == {"num_steps": 70_000}
    assert EFFICIENTAD.model == EFFICIENTAD_MEDIUM.model
    assert math.ceil(0.001 * CHANNELS * 56**2) == 1205  # values that are learnt from at 256 pixels
