"""`ad-runtime calibrate`: the threshold of an exported model, set where it works."""

import json
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image
from tiny_export import bright_model, calibration, here, make_config, make_export

from ad.runtime import load
from ad.runtime.cli import main
from ad.runtime.errors import calibrate_command
from ad.runtime.package import embedded, read_package

LEVELS = (10, 40, 90, 100)
"""Of good pictures of one grey each: scores are these of 255."""


@pytest.fixture
def folder(tmp_path):
    """An export whose thresholds are those of another engine, and good pictures beside it."""
    make_export(
        tmp_path / "export",
        calibration=calibration(0.9),
        calibrations={"b": calibration(0.8)},
        categories=("toy", "b"),
        calibrated_on=here(engine="torch", precision="bf16"),
    )
    (tmp_path / "more").mkdir()
    for level in LEVELS:
        pixels = np.full((40, 30, 3), level, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "more" / f"{level}.png")
    return tmp_path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *(str(one) for one in arguments)])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def test_good_pictures_set_it_by_the_scores_of_this_engine(folder, capsys):
    export = folder / "export"
    graph = (export / "model.onnx").read_bytes()
    status, out, err = run(
        capsys, export, "--normals", folder / "more", "--false-alarms", 0.4, "--threads", 1
    )
    assert status == 0
    # Of four scores and a new one each order is equally likely: above the third are 2 of 5.
    third = LEVELS[2] / 255
    now = read_package(export).config
    assert third < now.calibration.threshold < third + 1e-3
    assert third < now.calibration.pixel_threshold < third + 1e-3
    assert now.calibration.scores == pytest.approx([level / 255 for level in LEVELS])
    assert (now.calibration.num_images, now.calibrations) == (4, {})
    assert out.startswith("before  threshold 0.9, 0.9 for pixels\n")
    assert f"now     threshold {now.calibration.threshold:.4g}, " in out
    # Judged by the third level, or where it is left out by the fourth, one alone is above.
    regions = (
        "regions in good pictures: 1 of 4 had any (1 in all, the largest of 1200 pixels), each"
    )
    assert f"\n        {regions} by the pixel threshold that the others set\n" in out
    assert "could not be checked that these pictures are new" in err
    assert "`b` had one of their own" in err
    assert (export / "model.onnx").read_bytes() == graph
    (line,) = (export / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["before"]["threshold"] == 0.9
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it holds where it was set
        found = load(export, threads=1).predict(folder / "more")
    assert [one.path.stem for one in found if one.anomalous] == ["100"]


def test_a_picture_that_alone_sets_it_is_named(folder, capsys):
    for level in (*range(11, 30), 250):
        pixels = np.full((40, 30, 3), level, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "more" / f"{level}.png")
    for level in (40, 90, 100):
        (folder / "more" / f"{level}.png").unlink()
    given = (folder / "export", "--normals", folder / "more", "--threads", 1)
    _, _, err = run(capsys, *given)
    assert f"`{folder / 'more/250.png'}` scores 0.9804, far above other good ones" in err
    assert "note: Apart: 1 good picture lies far above the other 20" in err
    assert f"{calibrate_command()} RUN --normals DIR" in err


def test_copies_and_masks_among_the_good_pictures_are_told(folder, capsys):
    more = folder / "more"
    for number in range(12):
        pixels = np.random.default_rng(number).integers(20, 90, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(more / f"part{number}.png")
    given = (folder / "export", "--normals", more, "--threads", 1)
    status, _, err = run(capsys, *given)
    assert status == 0
    assert "copies tell nothing new" not in err
    assert "4 of 16 pictures are the same all over, such as `" in err
    for name in ("x.png", "y.png"):
        shutil.copy(more / "part3.png", more / name)
    status, _, err = run(capsys, *given)
    assert status == 0
    assert (
        f"note: Of 18 good pictures 2 are copies of others, such as `{more / 'x.png'}` of "
        f"`{more / 'part3.png'}`: copies tell nothing new"
    ) in " ".join(err.split())
    before = (folder / "export/config.json").read_bytes()
    mask = np.zeros((40, 30), dtype=np.uint8)
    mask[5:9, 5:9] = 255
    (more / "areas").mkdir()
    Image.fromarray(mask).save(more / "areas" / "part3.png")
    for path in more.glob("[1-9xy]*.png"):
        path.unlink()
    (more / "parts").mkdir()
    for path in more.glob("part*.png"):
        path.rename(more / "parts" / path.name)
    status, _, err = run(capsys, *given)
    assert status == 1
    assert "1 of 13 pictures look like masks, not like parts" in err
    assert f"Rename the folder `{more / 'areas'}` to `masks`" in err
    assert (folder / "export/config.json").read_bytes() == before


def test_a_person_may_choose_it(folder, capsys):
    status, out, _ = run(capsys, folder / "export", "--threshold", 0.25, "--json")
    assert status == 0
    assert json.loads(out)["after"]["threshold"] == 0.25
    now = read_package(folder / "export").config.calibration
    assert (now.threshold, now.pixel_threshold) == (0.25, 0.9)


def test_what_cannot_set_it_is_refused_and_changes_nothing(folder, capsys):
    export, more = folder / "export", folder / "more"
    before = (export / "config.json").read_bytes()
    for name in ("empty", "defective"):
        (folder / name).mkdir()
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(folder / "defective" / "a.png")
    (folder / "torn").mkdir()
    (folder / "torn" / "a.png").write_bytes(b"x")
    for given, words in (
        ([], "a threshold of your own (`--threshold SCORE`); got neither"),
        (["--normals", more, "--threshold", 1], "got `--threshold`, `--normals`"),
        (["--threshold", 1, "--threads", 1], "got `--threshold`, `--threads`"),
        (["--normals", more, "--pixel-threshold", 1], "goes with `--threshold SCORE`"),
        (["--normals", folder / "no"], "There is no folder"),
        (["--normals", folder / "empty"], "holds no pictures (.jpg"),
        (["--normals", folder / "defective"], "is called like a folder of defective pictures"),
        (["--normals", folder / "torn", "--threads", 1], "cannot be read"),
        (["--normals", folder / "torn", "--false-alarms", 2], "below 1; got 2. For 2 %: `--false"),
        (["--threshold", "nan"], "must be a score, a finite float32 number"),
    ):
        status, out, err = run(capsys, export, *given)
        assert (status, out) == (1, "")
        assert words in err
        assert (export / "config.json").read_bytes() == before
        assert not (export / "log.jsonl").exists()


def test_a_single_file_holds_its_threshold_itself(tmp_path, capsys):
    from onnx import helper

    model = bright_model()
    helper.set_model_props(model, {"ad.config": embedded(make_config())})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    status, _, err = run(capsys, tmp_path / "m.onnx", "--threshold", 0.5)
    assert status == 1
    assert "Export the run again: ad export RUN --single-file" in err


def test_advice_names_the_command_that_is_here(monkeypatch):
    monkeypatch.setattr("ad.runtime.errors.find_spec", lambda name: None)
    assert calibrate_command() == "ad-runtime calibrate"
    monkeypatch.setattr("ad.runtime.errors.find_spec", lambda name: name == "ad.core" or None)
    assert calibrate_command() == "ad calibrate"
