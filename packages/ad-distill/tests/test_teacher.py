"""Distilling a teacher: its targets, its files, and that a resumed run ends like a whole one."""

import json
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from ad.core import Checkpoints, PictureSet, Setup, fit
from ad.core.errors import DataError, Interrupted, OutputError, SettingError
from ad.core.networks import FeatureExtractor
from ad.distill import distilling, teacher
from ad.distill.distilling import distill_teacher
from ad.distill.pdn import CHANNELS, load_teacher
from ad.distill.targets import TargetFeatures
from ad.distill.teacher import TeacherTrainer, grey, random_square

BACKBONE = "test_resnet"  # timm's smallest: layers as of a ResNet-18, built in milliseconds
SIZE = 64
TINY = {
    "backbone": BACKBONE,
    "weights": "random",
    "picture_size": SIZE,
    "batch_size": 2,
    "precision": "fp32",
    "device": "cpu",
}


def setup(**changes):
    values = {"img_size": SIZE, "normalize": True, "weights": "random", "batch_size": 2}
    return Setup(**{**values, **changes})


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 72)).save(folder / f"{number}.png")
    return folder


def test_targets_are_patchcores_features_averaged_to_384():
    extractor = FeatureExtractor(BACKBONE, ("layer2", "layer3"), setup=setup())
    images = torch.rand(2, 3, SIZE, SIZE)
    layers = []
    for maps in extractor(images):
        # PatchCore: every cell with its neighbours, resized to the first layer's grid, averaged.
        b, c, h, w = maps.shape
        patches = F.unfold(maps, 3, padding=1).view(b, c * 9, h, w)
        patches = F.interpolate(patches, (SIZE // 8, SIZE // 8), mode="bilinear")
        rows = patches.permute(0, 2, 3, 1).reshape(-1, c * 9)
        layers.append(F.adaptive_avg_pool1d(rows, 1024))
    expected = F.adaptive_avg_pool1d(torch.cat(layers, 1), CHANNELS)
    targets = TargetFeatures(extractor)(images)
    assert targets.shape == (2, CHANNELS, SIZE // 8, SIZE // 8)
    torch.testing.assert_close(targets.permute(0, 2, 3, 1).reshape(-1, CHANNELS), expected)


def test_grey_keeps_three_channels():
    image = torch.rand(3, 4, 4)
    changed = grey(image)
    assert changed.shape == image.shape
    assert torch.equal(changed[0], changed[2])
    torch.testing.assert_close(grey(changed), changed)


def test_squares_are_parts_of_the_picture_anywhere_in_it():
    picture = torch.arange(3 * 9 * 7).view(3, 9, 7)
    corners = set()
    for seed in range(200):
        square = random_square(picture, 5, torch.Generator().manual_seed(seed))
        top, left = divmod(int(square[0, 0, 0]), 7)
        assert torch.equal(square, picture[:, top : top + 5, left : left + 5])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(5) for left in range(3)}


def test_a_step_may_learn_from_squares(photos):
    seen = []
    trainer = TeacherTrainer(
        setup(img_size=96, num_steps=2), backbone=BACKBONE, model_size="small", crop=64
    )
    gap = trainer.detector.gap
    trainer.detector.gap = lambda images: seen.append(images.shape) or gap(images)
    fit(trainer, PictureSet(sorted(photos.iterdir()), 96))
    assert seen == [(2, 3, 64, 64)] * 2


def test_the_error_falls_and_the_files_say_how(tmp_path, photos):
    short = distill_teacher(photos, steps=1, output=tmp_path / "short", **TINY)
    long = distill_teacher(photos, steps=12, output=tmp_path / "long", half=True, **TINY)
    assert long.card["final_loss"] < short.card["final_loss"]
    assert json.loads((tmp_path / "long/efficientad_pdn_small.json").read_text()) == long.card
    assert (long.card["pictures"], long.card["backbone"]) == (4, "test_resnet")
    assert sorted(path.suffix for path in (tmp_path / "long").iterdir()) == [
        ".json", ".safetensors"
    ]  # fmt: skip
    assert load_file(long.path)["0.weight"].dtype == torch.float16
    load_teacher("small", setup=setup(weights="auto"), file=str(long.path))
    with pytest.raises(OutputError, match="exists already"):
        distill_teacher(photos, steps=1, output=tmp_path / "long", **TINY)


def test_a_killed_one_that_is_resumed_ends_bit_equal(tmp_path, photos, monkeypatch):
    whole = distill_teacher(photos, steps=3, output=tmp_path / "whole", **TINY)

    class PowerCut(Exception):
        pass

    save = Checkpoints.save

    def save_and_die(self, step, *rest):
        save(self, step, *rest)
        if step == 2:
            raise PowerCut

    monkeypatch.setattr(Checkpoints, "save", save_and_die)
    cut = {"steps": 3, "output": tmp_path / "cut", "checkpoint_minutes": 0, **TINY}
    with pytest.raises(PowerCut):
        distill_teacher(photos, **cut)
    monkeypatch.undo()
    with pytest.raises(OutputError, match="unfinished. Give `--resume`"):
        distill_teacher(photos, **cut)
    with pytest.raises(SettingError, match="was begun with `steps` 3; got 6"):
        distill_teacher(photos, **{**cut, "steps": 6}, resume=True)
    resumed = distill_teacher(photos, **cut, resume=True)
    ours, theirs = load_file(resumed.path), load_file(whole.path)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert resumed.card["final_loss"] == whole.card["final_loss"]


def test_ctrl_c_finishes_the_step_and_says_how_to_go_on(tmp_path, photos, monkeypatch):
    losses = TeacherTrainer.losses

    def losses_and_ctrl_c(self, batch):
        os.kill(os.getpid(), signal.SIGINT)
        return losses(self, batch)

    monkeypatch.setattr(TeacherTrainer, "losses", losses_and_ctrl_c)
    with pytest.raises(Interrupted, match="hint: the same command with `--resume`") as caught:
        distill_teacher(photos, steps=3, output=tmp_path, **TINY)
    assert caught.value.status == 130
    assert (tmp_path / "efficientad_pdn_small/checkpoint/step-000000001").is_dir()
    assert not (tmp_path / "efficientad_pdn_small.safetensors").exists()


def test_statistics_of_many_pictures_are_of_a_part_that_the_seed_chooses(photos, monkeypatch):
    from ad.core import LearningData, PictureSet

    monkeypatch.setattr(teacher, "STATISTICS", 2)
    data = PictureSet(sorted(photos.iterdir()), SIZE)
    means = []
    for seed in (0, 0, 3):
        trainer = TeacherTrainer(setup(seed=seed), backbone=BACKBONE, model_size="small")
        trainer.prepare(LearningData(data, torch.device("cpu"), trainer.frozen))
        means.append(trainer.detector.scale.mean)
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])


def test_what_cannot_work_is_refused(tmp_path, photos):
    with pytest.raises(DataError, match="is no folder with pictures"):
        distill_teacher(tmp_path / "missing", steps=1, **TINY)
    for name in ("steps", "picture_size", "batch_size", "seed", "checkpoint_minutes"):
        for value in (-1, 10**30):
            with pytest.raises(SettingError, match=f"`{name}`: input should be .*; got {value}"):
                distill_teacher(photos, **{"steps": 1, **TINY, name: value})
    with pytest.raises(SettingError, match="There is nothing to resume"):
        distill_teacher(photos, steps=1, output=tmp_path / "new", resume=True, **TINY)
    with pytest.raises(SettingError, match="multiple of 32 pixels wide, from 64; got 72"):
        TeacherTrainer(setup(img_size=72), backbone=BACKBONE, model_size="small")
    with pytest.raises(SettingError, match="must have stride 8.* `layer3` .* has 16"):
        TeacherTrainer(setup(), backbone=BACKBONE, model_size="small", layers=("layer3",))
    for crop in (96, 32, 72):
        with pytest.raises(SettingError, match=f"`crop` must be a multiple of 32.*; got {crop}"):
            TeacherTrainer(setup(), backbone=BACKBONE, model_size="small", crop=crop)


def test_weights_beyond_float16_are_not_written_in_half():
    weight = torch.tensor([1.0, -1e5])
    assert torch.equal(distilling._as_written("0.weight", weight, half=False), weight)
    with pytest.raises(SettingError, match="`0.weight` of the teacher has values up to 100,000, b"):
        distilling._as_written("0.weight", weight, half=True)


def test_the_command_hands_over_what_was_typed(tmp_path, photos, monkeypatch):
    import typer

    from ad.distill.command import distill_teacher as command

    given = {}

    def record(images, **values):
        given.update(images=images, **values)
        return distilling.DistilledTeacher(
            path=tmp_path / "t", card={"final_loss": 0.5, "seconds": 2.0}
        )

    monkeypatch.setattr(distilling, "distill_teacher", record)
    app = typer.Typer()
    app.command()(command)
    typed = (
        f"--images {photos} --backbone resnet18 --size medium --steps 7 --crop 256 --seed 3 "
        "--resume --json"
    )
    result = CliRunner().invoke(app, typed.split())
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["final_loss"] == 0.5
    names = ("images", "backbone", "size", "steps", "crop", "seed", "resume")
    assert {name: given[name] for name in names} == {
        "images": photos,
        "backbone": "resnet18",
        "size": "medium",
        "steps": 7,
        "crop": 256,
        "seed": 3,
        "resume": True,
    }
