"""What predicting writes: whatever the names of the pictures, and whatever becomes of them."""

import csv
import errno
import os
from pathlib import Path

import pytest
from PIL import Image

from ad.core import train
from ad.core.bench.jobs import Job
from ad.core.errors import OutputError, SettingError
from ad.core.jobs import inspect as inspection
from ad.core.jobs.inspect import inspect
from ad.core.jobs.run_directory import folder_name
from ad.runtime import numbered
from ad.runtime.paths import ending


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    return train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run").run


def table(output):
    with (output / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("character", ["x", "\u00e9", "\u4e00", "\U00020bb7"])
def test_a_name_of_any_length_gets_its_heat_map(trained, tmp_path, character):
    size = len(character.encode())
    names = ["a.png", character * (251 // size) + ".png", "z.png"]
    (tmp_path / "new").mkdir()
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / "new" / name, "PNG")
    result = inspect(trained, [tmp_path / "new"], output=tmp_path / "out")
    assert [row.path.name for row in result.rows] == sorted(names)
    maps = [row.heatmap for row in result.rows]
    assert sorted(maps) == sorted((tmp_path / "out/heatmaps").iterdir())
    (long,) = (path.name for path in maps if character * 20 in path.name)
    assert long.endswith(f"{character * 60}.jpg")


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL])
def test_a_heat_map_whose_name_the_file_system_refuses_has_its_number(
    trained, toy_root, tmp_path, monkeypatch, number
):
    refuse(monkeypatch, number, lambda path: path.name == "0002-001.jpg")
    inspect(trained, [toy_root / "toy/test/good"], output=tmp_path / "out")
    maps = [os.path.basename(row["heatmap"]) for row in table(tmp_path / "out")]
    assert maps == ["0001-000.jpg", "0002.jpg", "0003-002.jpg", "0004-003.jpg"]
    assert sorted(os.listdir(tmp_path / "out/heatmaps")) == maps


def test_a_heat_map_that_cannot_be_written_for_another_reason_ends_the_run(
    trained, toy_root, tmp_path, monkeypatch
):
    refuse(monkeypatch, errno.ENOSPC, lambda path: path.name == "0002-001.jpg")
    with pytest.raises(OutputError, match="0002-001.jpg` cannot be written .No space left"):
        inspect(trained, [toy_root / "toy/test/good"], output=tmp_path / "out")
    rows = table(tmp_path / "out")
    assert len(rows) >= 2  # that picture was scored, and more may have been
    paths = [str(toy_root / f"toy/test/good/{number:03d}.png") for number in range(len(rows))]
    assert [row["path"] for row in rows] == paths
    assert rows[0]["heatmap"] in ("heatmaps/0001-000.jpg", "")  # threads may be in any order
    assert rows[1]["heatmap"] == ""


def refuse(monkeypatch, number, which):
    write = numbered.write_atomic

    def refusing(path, content):
        if which(path):
            error = OSError(number, os.strerror(number))
            msg = f"`{path}` cannot be written ({error.strerror})."
            raise OutputError(msg) from error
        write(path, content)

    monkeypatch.setattr(numbered, "write_atomic", refusing)


def test_a_picture_that_is_gone_once_it_was_scored_costs_its_row(
    trained, toy_root, tmp_path, monkeypatch
):
    glimpse, gone = inspection.glimpse, toy_root / "toy/test/good/001.png"

    def late(source, **options):  # which is what is drawn on
        if Path(source).name == gone.name:
            gone.unlink()
        return glimpse(source, **options)

    monkeypatch.setattr(inspection, "glimpse", late)
    inspect(trained, [toy_root / "toy/test/good"], output=tmp_path / "out")
    rows = table(tmp_path / "out")
    assert [row["verdict"] == "error" for row in rows] == [False, True, False, False]
    assert (rows[1]["score"], rows[1]["heatmap"]) == ("", "")
    assert "001.png" in rows[1]["error"]


def test_the_folder_of_a_run_fits_whatever_its_category_is_called(tmp_path):
    name = folder_name(f"folder-{chr(0x20BB7) * 62}-padim-seed0-0123456789")
    assert name.endswith(f"{chr(0x20BB7) * 20}-padim-seed0-0123456789")
    assert len(name.encode()) <= 200
    (tmp_path / f"{name}.log").touch()
    (tmp_path / f"{name}-1000").mkdir()


@pytest.mark.parametrize("text", ["", "abc", "a\U00020bb7b", "\udcff" * 9])
@pytest.mark.parametrize("size", range(7))
def test_an_end_is_the_longest_that_fits(text, size):
    fitting = [text[k:] for k in range(len(text) + 1) if len(os.fsencode(text[k:])) <= size]
    assert ending(text, size) == fitting[0]


def test_runs_of_a_bench_have_logs_of_their_own_where_a_category_has_a_dot(tmp_path):
    folders = [tmp_path / f"folder-parts.v2-{model}-seed0-ab" for model in ("padim", "dfkde")]
    logs = [
        Job(settings=None, category="parts.v2", label="m", folder=folder).log for folder in folders
    ]
    assert [log.name for log in logs] == [f"{folder.name}.log" for folder in folders]


def test_what_is_drawn_can_be_chosen_and_tables_have_all(trained, toy_root, tmp_path):
    tests = [toy_root / "toy/test"]
    scores = [row.score for row in inspect(trained, tests, output=tmp_path / "out").rows]
    threshold = (min(scores) + max(scores)) / 2  # some are defective, some are not
    for heatmaps, drawn, batch_size in (
        ("all", {"good", "defective"}, 1),
        ("defective", {"defective"}, 3),
        ("none", set(), None),
    ):
        result = inspect(
            trained,
            tests,
            output=tmp_path / heatmaps,
            threshold=threshold,
            batch_size=batch_size,
            heatmaps=heatmaps,
            save_maps=tmp_path / f"{heatmaps}-maps",
        )
        assert [row.score for row in result.rows] == pytest.approx(scores)
        rows = table(result.output)
        assert {row["verdict"] for row in rows} == {"good", "defective"}
        assert {row["verdict"] for row in rows if row["heatmap"]} == drawn
        paths = [row["heatmap"] for row in rows if row["heatmap"]]
        assert all((result.output / path).is_file() and path[:9] == "heatmaps/" for path in paths)
        assert len(list((tmp_path / f"{heatmaps}-maps").iterdir())) == len(scores)
    assert not (tmp_path / "none/heatmaps").exists()


def test_what_needs_verdicts_is_refused_without_a_threshold(mean_picture, toy_root, tmp_path):
    run = train(
        "mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run", holdout=0
    ).run
    with pytest.raises(SettingError, match="`heatmaps` `defective`: `.*` has no threshold, and so"):
        inspect(run, [toy_root], output=tmp_path / "out", heatmaps="defective")
    with pytest.raises(
        SettingError, match=r"`--fail-on-defect`: .* \(`ad calibrate`\), or leave it"
    ):
        inspect(run, [toy_root], output=tmp_path / "out", verdicts_for="`--fail-on-defect`")
    with pytest.raises(SettingError, match="`batch_size` must be a whole number from 1; got 0"):
        inspect(run, [toy_root], output=tmp_path / "out", batch_size=0)
    assert not (tmp_path / "out").exists()
