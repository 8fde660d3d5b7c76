"""The command `ad-runtime`: what it prints where, what it writes, and its exit status."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_export import bright_model, calibration, here, make_config, make_export

from ad.runtime.cli import main
from ad.runtime.errors import PictureError
from ad.runtime.framing import Framing, Size
from ad.runtime.pictures import reading


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """An export and three pictures, one of them broken."""
    root = tmp_path_factory.mktemp("cli")
    make_export(
        root / "export",
        parity={"schema": 1, "passed": True},
        categories=("toy", "b"),
        calibrations={"b": calibration(0.1)},
        framing=Framing(size=Size(32, 48)),
    )
    (root / "pictures").mkdir()
    for name, level in (("dark", 40), ("light", 220)):
        pixels = np.full((50, 40, 3), level, dtype=np.uint8)
        Image.fromarray(pixels).save(root / "pictures" / f"{name}.png")
    (root / "broken.png").write_bytes(b"x")
    return root


@pytest.fixture
def run(capsys):
    """Run the command line in this process: exit status, stdout, stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(one) for one in arguments])
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return run


def test_verdicts_go_to_stdout_and_all_else_to_stderr(run, root):
    status, out, err = run("predict", root / "export", root / "pictures")
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["good", "0.1569", "0.031", str(root / "pictures" / "dark.png")],
        ["defective", "0.8627", "0.974", str(root / "pictures" / "light.png")],
    ]
    assert "2 pictures: 1 good, 1 defective" in err


def test_a_picture_that_cannot_be_read_is_status_3(run, root):
    status, out, err = run(
        "predict", root / "export", root / "broken.png", root / "pictures" / "dark.png"
    )
    assert status == 3
    assert out.splitlines()[0].split()[:3] == ["error", "-", "-"]
    assert out.splitlines()[1].startswith("good")
    assert "error: The picture" in err
    assert "1 not readable" in err


def test_json_is_one_object_and_nothing_else(run, root):
    status, out, _ = run("predict", root / "export", root / "pictures", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["threshold"] == 0.5
    assert [one["verdict"] for one in found["predictions"]] == ["good", "defective"]
    assert set(found["predictions"][0]) == {
        "path",
        "score",
        "normalized",
        "verdict",
        "heatmap",
        "error",
        "num_regions",
        "regions",
    }


@pytest.mark.parametrize(
    ("options", "threshold"), [(["--threshold", "0.1"], 0.1), (["--category", "b"], 0.1)]
)
def test_another_threshold_counts_and_is_told(run, root, options, threshold):
    _, out, _ = run("predict", root / "export", root / "pictures", "--json", *options)
    found = json.loads(out)
    assert found["threshold"] == threshold
    assert [one["verdict"] for one in found["predictions"]] == ["defective", "defective"]


def test_results_are_written_a_line_a_picture(run, root, tmp_path):
    inputs = [root / "pictures", root / "broken.png"]
    for suffix in ("csv", "jsonl"):
        status, *_ = run("predict", root / "export", *inputs, "--output", tmp_path / f"r.{suffix}")
        assert status == 3
    with (tmp_path / "r.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [one["verdict"] for one in lines] == ["good", "defective", "error"]
    with (tmp_path / "r-regions.csv").open(newline="") as file:
        places = list(csv.DictReader(file))
    assert [place["area"] for place in places] == ["2000"]  # the light one, all over
    for row, line in zip(table, lines, strict=True):
        for region in line.pop("regions") or ():
            place = {"path": line["path"], **{name: str(one) for name, one in region.items()}}
            assert place == places.pop(0)
        assert row == {key: "" if value is None else str(value) for key, value in line.items()}
    status, _, err = run("predict", root / "export", *inputs, "--output", tmp_path / "r.csv")
    assert status == 1
    assert "exists already and is never overwritten" in err
    (tmp_path / "s-regions.csv").touch()
    status, _, err = run("predict", root / "export", *inputs, "--output", tmp_path / "s.csv")
    assert status == 1
    assert "s-regions.csv` exists already and is never overwritten" in err
    assert not (tmp_path / "s.csv").exists()
    status, _, err = run("predict", root / "export", *inputs, "--output", tmp_path / "r.txt")
    assert status == 1
    assert "Results are written to .csv or .jsonl; got `" in err


def test_small_regions_are_left_out_where_that_is_asked_for(run, root, tmp_path):
    pixels = np.full((32, 48, 3), 40, dtype=np.uint8)
    pixels[8:12, 20:30] = 220
    Image.fromarray(pixels).save(tmp_path / "spot.png")
    given = ("predict", root / "export", tmp_path / "spot.png", "--json", "--min-area")
    for area, count in ((40, 1), (41, 0)):
        folder = tmp_path / str(area)
        status, out, err = run(*given, area, "--heatmaps", folder)
        assert status == 0
        assert json.loads(out)["predictions"][0]["num_regions"] == count
        assert json.loads(out)["false_regions"] is None
        assert "regions in good pictures: not known" in err
        sheet = np.asarray(Image.open(folder / "0001-spot.jpg")).astype(int)
        assert (abs(sheet - (255, 0, 60)) < 40).all(axis=2).any() == bool(count)  # it is lossy
    status, out, err = run(*given, 0)
    assert (status, out) == (1, "")
    assert "`min_area` must be 1 or more pixels; got 0" in err


def test_heat_maps_are_pictures_in_a_new_folder(run, root, tmp_path):
    folder = tmp_path / "maps"
    arguments = ("predict", root / "export", root / "pictures", "--heatmaps", folder, "--json")
    status, out, _ = run(*arguments)
    assert status == 0
    written = [one["heatmap"] for one in json.loads(out)["predictions"]]
    assert written == [str(folder / "0001-dark.jpg"), str(folder / "0002-light.jpg")]
    left, right = np.split(np.asarray(Image.open(written[1]))[20:200, :, 0].astype(int), 2, axis=1)
    assert left[:, 20:200].mean() == pytest.approx(220, abs=2)
    assert abs(right[:, 20:200].mean() - 220) > 3  # under red
    status, _, err = run(*arguments)
    assert status == 1
    assert "cannot be made (it exists already). Name another one." in err


@pytest.mark.parametrize(
    ("option", "without"),
    [("--heatmaps", "`--no-heatmaps`"), ("--save-maps", "no `--save-maps`")],
)
def test_what_was_scored_is_kept_where_the_disk_is_full(
    run, root, tmp_path, monkeypatch, option, without
):
    (tmp_path / "pictures").mkdir()
    for number in range(60):
        shutil.copy(root / "pictures/dark.png", tmp_path / "pictures" / f"{number:02d}.png")
    replace = Path.replace

    def full(self, target):
        if Path(target).name.startswith("0002-"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    table = tmp_path / "out.csv"
    given = ("predict", root / "export", tmp_path / "pictures", option, tmp_path / "maps")
    status, _, err = run(*given, "--output", table, "--quiet")
    assert status == 1
    with table.open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert 2 <= len(rows) < 60  # it stops, and what was scored ahead is there, too
    names = [f"{number:02d}.png" for number in range(len(rows))]
    assert [Path(row["path"]).name for row in rows] == names
    assert all(float(row["score"]) == pytest.approx(40 / 255) for row in rows)
    assert rows[1]["heatmap"] == ""
    assert rows[0]["heatmap"] in ("maps/0001-00.jpg", "")  # threads may be in any order
    assert "/maps/0002-01" in err
    assert "cannot be written (No space left on device)" in err
    assert f"The results of the first {len(rows)} of 60 pictures are in `{table}`." in err
    hint = f"hint: once it can be written, or without it ({without}), predict the others to a new "
    assert hint in err
    status, _, err = run(*given[:-1], tmp_path / "other")
    assert status == 1
    assert "of 60 pictures are in no file; `--output FILE.csv` keeps them." in err


def test_maps_are_saved_by_one_process_too(run, root, tmp_path):
    arguments = ("predict", root / "export", root / "pictures", "--save-maps", tmp_path / "maps")
    status, out, _ = run(*arguments, "--heatmaps", tmp_path / "heat", "--only", "defective")
    assert (status, len(out.splitlines())) == (0, 1)
    assert [path.name for path in (tmp_path / "heat").iterdir()] == ["0002-light.jpg"]
    for name, level in (("0001-dark", 40), ("0002-light", 220)):
        with np.load(tmp_path / "maps" / f"{name}.npz") as saved:
            assert saved["map"].shape == (50, 40)
            assert saved["map"] == pytest.approx(level / 255)
            assert saved["score"] == pytest.approx(level / 255)
            assert (saved["threshold"], str(saved["path"])) == (
                *(0.5, str(root / "pictures" / f"{name[5:]}.png")),
            )
    status, _, err = run(*arguments, "--heatmaps", tmp_path / "other")
    assert status == 1
    assert "is not empty. Name another one, or remove it first." in err
    assert not (tmp_path / "other").exists()
    make_export(tmp_path / "whole", localises=False)
    status, _, err = run(
        *("predict", tmp_path / "whole", root / "pictures", "--maps", tmp_path / "none")
    )
    assert status == 1
    assert "has no maps to save. Leave `--save-maps` (`save_maps`) out" in err
    assert not (tmp_path / "none").exists()


def test_a_picture_that_is_gone_when_it_is_drawn_is_an_error_of_its_own(
    run, root, tmp_path, monkeypatch
):
    real = reading.glimpse

    def gone(file, **more):
        if file.stem != "dark":
            return real(file, **more)
        msg = f"There is no picture `{file}`."
        raise PictureError(msg)

    monkeypatch.setattr(reading, "glimpse", gone)  # of which scoring has its own name
    status, out, err = run(
        "predict", root / "export", root / "pictures", "--heatmaps", tmp_path / "maps", "--json"
    )
    assert status == 3
    assert [one["verdict"] for one in json.loads(out)["predictions"]] == ["error", "defective"]
    assert "error: There is no picture `" in err


def test_heat_maps_of_a_model_without_maps_are_refused(run, root, tmp_path):
    make_export(tmp_path / "e", localises=False)
    status, _, err = run(
        "predict", tmp_path / "e", root / "pictures", "--heatmaps", tmp_path / "maps"
    )
    assert status == 1
    assert "has no maps to show. Leave `--heatmaps` out" in err
    assert not (tmp_path / "maps").exists()


def test_nothing_is_written_for_a_mistyped_path(run, root, tmp_path):
    status, _, err = run(
        *("predict", root / "export", root / "pictuers", "--output", tmp_path / "r.csv"),
        *("--heatmaps", tmp_path / "maps"),
    )
    assert status == 1
    assert "There is no picture or folder" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["predict"],
        ["predict", "export"],
        ["guess"],
        ["info", "--output"],
        ["predict", "e", "p", "--threshold", "x"],
        ["predict", "e", "p", "--output", ""],
    ],
)
def test_misuse_is_status_2(run, arguments):
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert "usage: ad-runtime" in err


def test_a_hint_stands_apart(run, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    status, out, err = run("info", tmp_path)
    assert status == 1
    assert out == ""
    assert err.startswith("error: `")
    assert err.splitlines()[-2:] == ["", f"hint: ad export {tmp_path}"]


@pytest.mark.filterwarnings("default")
def test_warnings_are_told_without_the_line_of_code(run, root, tmp_path):
    make_export(tmp_path / "e", calibrated_on=here(engine="torch"))
    status, _, err = run("predict", tmp_path / "e", root / "pictures", "--threads", "1")
    assert status == 0
    assert err.startswith("warning: The threshold of `")
    assert ".py" not in err


def test_info_says_what_an_export_is(run, root):
    status, out, _ = run("info", root / "export")
    assert status == 0
    facts = [line.split(maxsplit=1) for line in out.splitlines()]
    assert ["name", "bright"] in facts
    assert "made for    onnx, fp32" in out
    assert "input       pictures uint8, 32 x 48 (height x width)" in out
    assert "threshold   0.5; chosen by hand; no rate of false alarms is promised" in out
    assert "0.1 for b; " in out
    assert "scores      as the detector's, see" in out
    assert [line[-12:] for line in out.splitlines() if line.startswith("sha256")] == [
        "config.json ".strip().rjust(12),
        "  model.onnx",
        " parity.json",
    ]
    status, out, _ = run("info", root / "export", "--json")
    found = json.loads(out)
    config = json.loads((root / "export" / "config.json").read_text())
    del config["schema"]
    assert found["config"] == config
    assert found["parity"] == {"schema": 1, "passed": True}
    assert set(found["sha256"]) == {"config.json", "model.onnx", "parity.json"}


@pytest.mark.parametrize(
    ("parity", "words"),
    [
        (
            {"passed": False},
            "scores      NOT as the detector's (it was exported with `--force`), see",
        ),
        ({"passed": 1}, "scores      not checked, see"),
    ],
)
def test_info_tells_scores_that_differ_from_those_not_compared(run, tmp_path, parity, words):
    make_export(tmp_path / "e", parity=parity)
    assert words in run("info", tmp_path / "e")[1]


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise there")
def test_a_reader_that_goes_ends_the_command_without_a_trace(root):
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "ad.runtime.cli", "info", root / "export", "--json"]
    ended = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_info_obeys_nothing_that_stands_in_a_model(run, tmp_path):
    make_export(tmp_path / "e", categories=("a\x1b[31m\nb",), calibration=None)
    status, out, _ = run("info", tmp_path / "e")
    assert status == 0
    assert "trained on  a\\x1b[31m\\nb" in out
    assert "threshold   none: scores rank pictures" in out


@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_verify_runs_the_engine(run, root, engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    status, out, _ = run("verify", root / "export", "--engine", engine, "--threads", 1)
    assert status == 0
    assert "3 files are those that were saved" in out
    name = "onnxruntime" if engine == "auto" else engine
    assert f"{name} " in out
    assert " fp32 cpu runs it: " in out
    assert " ms for a picture of 32 x 48" in out


def test_a_single_files_hash_is_printed_to_be_compared(run, tmp_path):
    import hashlib

    from onnx import helper

    from ad.runtime.package import embedded

    model = bright_model()
    helper.set_model_props(model, {"ad.config": embedded(make_config())})
    content = model.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content)
    for command in ("info", "verify"):
        status, out, _ = run(command, tmp_path / "m.onnx")
        assert status == 0
        assert f"{hashlib.sha256(content).hexdigest()}  m.onnx" in out


def test_pictures_may_stand_behind_options_or_in_a_list_alone(run, root, tmp_path):
    light, dark = root / "pictures" / "light.png", root / "pictures" / "dark.png"
    (tmp_path / "l.txt").write_text(f"{light}\n")
    listed = ["--list", tmp_path / "l.txt"]
    named = [
        [line.split()[-1] for line in run("predict", root / "export", *given)[1].splitlines()]
        for given in (["--quiet"], listed, [*listed, dark])
    ]
    assert named == [[], [str(light)], [str(dark), str(light)]]


def test_the_exit_status_says_what_was_found(run, root):
    light, dark = root / "pictures" / "light.png", root / "pictures" / "dark.png"
    gate = ("predict", root / "export", "--fail-on-defect")
    assert run(*gate, dark)[0] == 0
    assert run(*gate, light, dark)[0] == 4
    assert run(*gate, light, root / "broken.png")[0] == 3  # which may be defective, too
    make_export(root / "bare", calibration=None)
    for option, words in (
        ("--fail-on-defect", "`--fail-on-defect`: `bright` has no threshold, and so calls nothing"),
        ("--only=defective", "`--only defective`: `bright` has no threshold"),
    ):
        status, out, err = run("predict", root / "bare", light, option)
        assert (status, out) == (1, "")
        assert words in err


def test_quiet_leaves_errors_and_the_summary(run, root):
    given = (root / "pictures", root / "broken.png", "--quiet")
    status, out, err = run("predict", root / "export", *given)
    assert (status, out) == (3, "")
    error, summary = err.splitlines()
    assert error.startswith("error: The picture")
    assert summary == "3 pictures: 1 good, 1 defective, 1 not readable"


def test_only_defective_ones_are_drawn_and_printed_and_all_are_in_the_file(run, root, tmp_path):
    files = ("--heatmaps", tmp_path / "maps", "--output", tmp_path / "r.csv")
    status, out, _ = run("predict", root / "export", root / "pictures", "--only=defective", *files)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["defective"]
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["0002-light.jpg"]
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = [(row["verdict"], row["heatmap"]) for row in csv.DictReader(file)]
    assert rows == [("good", ""), ("defective", "maps/0002-light.jpg")]


def test_heat_maps_are_told_from_the_table_on_where_its_folder_is_a_link(run, root, tmp_path):
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real/deep")
    table = tmp_path / "link/r.csv"
    files = ("--heatmaps", tmp_path / "maps", "--output", table)
    run("predict", root / "export", root / "pictures/light.png", *files)
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (table.parent / row["heatmap"]).samefile(tmp_path / "maps/0001-light.jpg")


def test_a_terminal_gets_the_twenty_highest_and_is_told_of_the_others(
    run, root, tmp_path, monkeypatch
):
    for level in range(22):
        Image.new("L", (8, 8), level * 10).save(tmp_path / f"{level:02d}.png")
    given = ("predict", root / "export", tmp_path, root / "broken.png")
    assert [line.split()[-1] for line in run(*given)[1].splitlines()][:2] == [
        str(tmp_path / "00.png"),
        str(tmp_path / "01.png"),
    ]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, out, err = run(*given)
    names = [line.split()[-1].rpartition("/")[2] for line in out.splitlines()]
    assert names == [f"{level:02d}.png" for level in range(21, 1, -1)]
    assert "the 20 highest scores; 3 more that `--output FILE.csv` keeps" in err
    _, out, err = run(*given, "--output", tmp_path / "r.csv")
    assert f"3 more in {tmp_path / 'r.csv'}" in err
    _, out, _ = run("predict", root / "export", tmp_path / "00.png", root / "broken.png")
    assert [line.split()[0] for line in out.splitlines()] == ["good", "error"]
