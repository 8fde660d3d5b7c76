"""White in pictures of more than 8 bits: a run's, found before learning and kept with its model."""

import json
from pathlib import Path

import numpy as np
import pytest
from deep_files import random_values, save, write_png
from PIL import Image

from ad.core import evaluate, load, train
from ad.core.data.batches import PictureSet
from ad.core.errors import ModelFileError, PictureError
from ad.core.jobs.inspect import inspect
from ad.core.jobs.recalibrate import recalibrate
from ad.core.predict import ModelConfig
from ad.core.saved.files import read_model
from ad.core.synth.preview import preview
from ad.core.testing.pictures import make_picture


def test_a_set_of_pictures_reads_all_by_its_level(tmp_path):
    values = random_values(4095, 1)[..., 0]
    file = save(tmp_path / "a.png", values)
    for cache in (False, True):
        pictures = PictureSet([file, values], 9, cache=cache, white=4095)
        for _ in range(2):
            (batch,) = pictures.batches(2)
            assert batch.pictures.max() > 100
            assert (batch.pictures[0] == batch.pictures[1]).all()


def grey(index, *, defect=False):
    picture, mask = make_picture(index, size=32, defect=defect)
    return picture[..., 1].astype(np.uint16), mask


WRITERS = {
    "8 bits": lambda path, grey, gain: save(path, grey.astype(np.uint8)),
    "grey": lambda path, grey, gain: save(path, grey * gain),
    "colour": lambda path, grey, gain: write_png(path, np.repeat(grey[..., None] * gain, 3, 2)),
}


def learnt(root, model, kind, gain):
    """A run on the same pictures whatever files they are in."""
    for folder, indices, defect in (("good", range(14), False), ("dent", range(20, 24), True)):
        (root / "parts" / folder).mkdir(parents=True)
        for index in indices:
            path = root / "parts" / folder / f"{index}.png"
            WRITERS[kind](path, grey(index, defect=defect)[0], np.uint16(gain))
    return train("folder", str(root / "parts"), model, output_dir=root / "run", report=False)


@pytest.mark.parametrize("kind", ["grey", "colour"])
@pytest.mark.parametrize(("gain", "white"), [(1, 255), (16, 4095), (64, 16383), (256, 65535)])
def test_a_run_comes_out_the_same_whatever_its_bits(tmp_path, mean_picture, kind, gain, white):
    plain = learnt(tmp_path / "plain", mean_picture, "8 bits", 1)
    deep = learnt(tmp_path / "deep", mean_picture, kind, gain)
    assert deep.evaluation.scores == plain.evaluation.scores
    assert deep.threshold == plain.threshold
    assert deep.metrics["image_auroc"] == 1
    assert (plain.detector.config.white_level, deep.detector.config.white_level) == (None, white)
    assert any(f"{white} ({white.bit_length()} bits) is taken as white" in n for n in deep.notes)
    again = evaluate(deep.run, report=False)
    assert again.scores == plain.evaluation.scores
    files = sorted((tmp_path / "deep/parts/dent").iterdir())
    arrays = [grey(int(file.stem), defect=True)[0] * np.uint16(gain) for file in files]
    from_files = [finding.score for finding in deep.detector.predict(files)]
    assert from_files == [finding.score for finding in deep.detector.predict(arrays)]
    assert from_files == [f.score for f in plain.detector.predict(tmp_path / "plain/parts/dent")]


@pytest.fixture
def twelve(tmp_path, mean_picture):
    return learnt(tmp_path, mean_picture, "grey", 16)


def test_data_show_names_the_level_before_anything_is_learnt(tmp_path, run_ad):
    for index in range(3):
        (tmp_path / "good").mkdir(exist_ok=True)
        save(tmp_path / f"good/{index}.png", grey(index)[0] * np.uint16(16))
    for how in ([], ["--json"]):
        status, out, err = run_ad("data", "show", "folder", tmp_path, *how)
        assert status == 0
        assert "4095 (12 bits) is taken as white" in " ".join((out + err).split())


def test_the_level_is_kept_with_the_model(twelve, tmp_path):
    config = json.loads((twelve.run / "model/config.json").read_text())
    assert config["white_level"] == 4095
    new = tmp_path / "new/good"
    for folder, indices in ((new, range(40, 45)), (tmp_path / "new/dent", range(50, 53))):
        folder.mkdir(parents=True)
        for index in indices:
            values = grey(index, defect=folder != new)[0] * np.uint16(16)
            save(folder / f"{index}.png", values)
    before = [finding.score for finding in load(twelve.run).predict(new)]
    recalibrate(twelve.run, normals=new)
    recalibrate(twelve.run, validation=tmp_path / "new")
    loaded = load(twelve.run)
    assert loaded.config.white_level == 4095
    assert [finding.score for finding in loaded.predict(new)] == before
    with Image.open(inspect(twelve.run, [new]).rows[0].heatmap) as sheet:
        assert np.asarray(sheet).mean() > 60  # the picture in it is not black


def test_synthetic_defects_are_shown_on_scaled_pictures(tmp_path, mean_picture):
    learnt(tmp_path, mean_picture, "grey", 16)
    shown = preview("folder", str(tmp_path / "parts"), output=tmp_path / "sheet", count=2)
    with Image.open(shown.sheet) as sheet:
        assert np.asarray(sheet).mean() > 60
    assert any("4095 (12 bits)" in note for note in shown.notes)


def test_a_picture_beyond_the_level_is_a_row_with_its_error(twelve, tmp_path):
    too_bright = save(tmp_path / "bright.png", grey(1)[0] * np.uint16(256))
    right = tmp_path / "parts/good/1.png"
    first, second = load(twelve.run).predict([too_bright, right])
    assert first.score is None
    assert "but white is 4095 (12 bits)" in first.error
    assert second.error is None
    with pytest.raises(PictureError, match="^The array has values up to .* white is 4095"):
        load(twelve.run).predict(grey(1)[0] * np.uint16(256))


def test_a_model_of_eight_bits_refuses_what_it_cannot_scale(tmp_path, mean_picture):
    plain = learnt(tmp_path, mean_picture, "8 bits", 1)
    deep = save(tmp_path / "deep.png", grey(1)[0] * np.uint16(16))
    (finding,) = plain.detector.predict(deep)
    assert "it is not known which value is white" in finding.error
    with pytest.raises(PictureError, match="it is not known which value is white"):
        plain.detector.predict(grey(1)[0] * np.uint16(16))
    (full,) = plain.detector.predict(grey(1)[0] * np.uint16(256))
    assert full.score == plain.detector.predict(tmp_path / "parts/good/1.png")[0].score


def test_the_level_in_a_configuration_is_checked(twelve):
    _, values = read_model(twelve.run / "model")
    for wrong in (4096, True, "4095", 12):
        with pytest.raises(ModelFileError, match="malformed entry `white_level`"):
            ModelConfig.from_json({**values, "white_level": wrong}, Path("model"))
    del values["white_level"]  # as before it was recorded
    assert ModelConfig.from_json(values, Path("model")).white_level is None
