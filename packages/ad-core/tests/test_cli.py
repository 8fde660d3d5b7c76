import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from ad.core import ModelRegistry, ModelSpec
from ad.core.cli.console import kinds_table


@pytest.fixture
def trained(run_ad, mean_picture, toy_root, tmp_path):
    run = tmp_path / "run"
    status, out, err = run_ad(
        "train", "mvtec", "toy", mean_picture, "--data-root", toy_root, "--output", run, "--json",
        "--set", "gain=2.0", "--batch-size", 3,
    )  # fmt: skip
    assert status == 0, err
    return run, json.loads(out), err


def test_train_prints_one_json_object(trained):
    run, result, err = trained
    assert result["run"] == str(run)
    assert set(result["metrics"]) == {
        "image_auroc", "image_ap", "image_f1max",
        "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "aupro_05",
    }  # fmt: skip
    assert {"fit", "test_per_image"} <= set(result["seconds"])
    assert result["resolution"] == [32, 32]
    assert "learning: 10 pictures in" in err
    assert "cross-fitting: 10 pictures in" in err


def test_train_tells_a_person(run_ad, mean_picture, toy_root, tmp_path):
    run = tmp_path / "Läufe der Linie 3"  # quoted, where it is to be typed
    status, out, err = run_ad(
        "train", "mvtec", "toy", mean_picture, "--data-root", toy_root, "--output", run,
        "--holdout", 0.1,
    )  # fmt: skip
    assert status == 0
    assert "AUROC" in out
    assert "toy" in out
    assert "note: Threshold" in err
    assert (
        "hint: for a threshold from more good pictures than the 1 held out: "
        f"ad calibrate '{run}' --normals FOLDER"
    ) in err
    assert f"hint: ad predict '{run}' PICTURE_OR_FOLDER" in err
    _, _, err = run_ad("calibrate", run, "--threshold", 9)
    assert f"hint: to take it back: ad calibrate '{run}' --undo" in err
    assert f"hint: the verdicts of the new one: ad evaluate '{run}'" in err


def test_synth_writes_a_sheet_and_says_where(run_ad, toy_root, tmp_path):
    arguments = ("synth", "mvtec", "toy", "--data-root", toy_root, "--img-size", 32, "--count", 3)
    status, out, err = run_ad(*arguments, "--output", tmp_path / "a")
    assert (status, out) == (0, "")
    assert "note: No textures" in err
    assert f"written to {tmp_path / 'a/synth.png'}" in err
    status, out, err = run_ad(
        *arguments, "--output", tmp_path / "b", "--recipe", "cut-paste", "--json"
    )
    assert status == 0
    result = json.loads(out)
    assert result["notes"] == []
    assert Path(result["sheet"]).is_file()
    assert [set(example) for example in result["examples"]] == [{"path", "broken_share"}] * 3
    assert all(0 < example["broken_share"] < 0.3 for example in result["examples"])
    assert run_ad(*arguments)[0] == 2  # no output folder
    status, _, err = run_ad(*arguments, "--output", tmp_path / "c", "--textures", tmp_path / "no")
    assert status == 1
    assert err.startswith("error: `textures` must be a folder of pictures")


def test_evaluate_repeats_the_figures(run_ad, trained):
    run, result, _ = trained
    status, out, _ = run_ad("evaluate", run, "--json")
    assert status == 0
    assert json.loads(out)["metrics"] == result["metrics"]
    status, out, _ = run_ad("evaluate", run)
    assert "toy" in out


def test_predict_writes_table_and_heat_maps(run_ad, trained, toy_root, tmp_path):
    run, _, _ = trained
    folder = toy_root / "toy/test"
    status, out, _ = run_ad("predict", run, folder, "--output", tmp_path / "found", "--json")
    assert status == 0
    predictions = json.loads(out)["predictions"]
    assert [p["verdict"] for p in predictions if "square" in p["path"]] == ["defective"] * 4
    with (tmp_path / "found/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [p["path"] for p in predictions]
    with Image.open(predictions[0]["heatmap"]) as image:
        assert image.width > image.height


def test_predict_tells_a_person_about_bad_files_too(run_ad, trained, toy_root):
    run, _, _ = trained
    (toy_root / "toy/test/good/000.png").write_bytes(b"")
    status, out, err = run_ad("predict", run, toy_root / "toy/test")
    assert status == 3
    assert "defective" in out
    assert "000.png` is empty" in err
    assert err.endswith("\n1 of 8 pictures could not be read and have no verdict\n")
    assert "8 pictures: " in err
    assert "1 not readable" in err
    assert (run / "predictions/predictions.csv").is_file()
    status, out, err = run_ad("predict", run, toy_root / "toy/test", "--json")
    assert (status, len(json.loads(out)["predictions"])) == (3, 8)
    assert "1 of 8 pictures could not be read" in err
    (toy_root / "toy/test/good/000.png").unlink()
    status, _, err = run_ad("predict", run, toy_root / "toy/test")
    assert status == 0
    assert "could not be read" not in err


def test_predict_fails_when_no_picture_could_be_read(run_ad, trained, toy_root):
    run, _, _ = trained
    path = toy_root / "toy/test/good/000.png"
    path.write_bytes(b"")
    status, _, err = run_ad("predict", run, path)
    assert status == 3
    status, out, quiet = run_ad("predict", run, path, "--quiet")
    assert (status, out) == (3, "")
    assert [line[:6] for line in quiet.splitlines()] == ["error:", "1 pict"]
    assert "000.png` is empty" in err
    assert "1 of 1 pictures could not be read" in err


def test_a_deliberate_error_is_a_message_with_status_one(run_ad):
    status, out, err = run_ad("train", "mvtec", "x", "nothing-like-it")
    assert (status, out) == (1, "")
    assert err.startswith("error: No model named `nothing-like-it` is installed.")
    assert "Traceback" not in err


def test_hints_stand_apart(run_ad):
    _, _, err = run_ad("datasets", "nothing")
    assert "\n\nhint: for a folder of your own pictures, use `folder`\n" in err


def test_misuse_has_status_two(run_ad):
    assert run_ad("train", "mvtec")[0] == 2
    assert run_ad("train", "a", "b", "c", "--precision", "fp8")[0] == 2


def test_models_are_listed(run_ad, mean_picture):
    status, out, _ = run_ad("models", "--json")
    assert status == 0
    assert mean_picture in [model["name"] for model in json.loads(out)["models"]]
    assert mean_picture in run_ad("models")[1]


def test_an_alias_is_told_beside_its_model(run_ad, mean_picture, monkeypatch):
    spec = ModelRegistry.get(mean_picture)
    object.__setattr__(spec, "aliases", ("short",))  # it is this test's own
    monkeypatch.setitem(ModelRegistry._added, "short", spec)
    rows = json.loads(run_ad("models", "--json")[1])["models"]
    assert [row["aliases"] for row in rows if row["name"] == mean_picture] == [["short"]]
    assert "short" not in [row["name"] for row in rows]
    shown = run_ad("show", "short")[1]
    assert mean_picture in shown
    assert re.search(r"also called\W+short", shown)


def test_a_model_is_shown_with_defaults_and_options(run_ad, mean_picture):
    out = run_ad("show", mean_picture)[1]
    assert "num_epochs" in out
    assert "--set gain=" in out


def test_the_values_an_option_allows_are_shown():
    from ad.core.settings import describe_options
    from ad.core.trainer import OnePassTrainer, Setup

    class Choosy(OnePassTrainer):
        def __init__(self, setup: Setup, *, how: Literal["a", "b"] = "b", size: int = 3):
            pass

    train = {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": False}
    spec = ModelSpec(name="choosy", trainer="x:Choosy", model={"size": 4}, train=train)
    assert describe_options(spec, Choosy) == {"how": ("b", ("a", "b")), "size": (4, ())}


def test_figures_by_kind_of_defect_are_a_table_of_their_own(capsys):
    figures = {"image_auroc": 0.5, "au_spro": 0.25, "au_spro_05": None}
    kinds_table({"a": {"logical": figures, "structural": figures}, "b": {"logical": figures}})
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "0.500" in line]
    assert [[row[1], row[3], row[7]] for row in rows] == [
        ["a", "logical", "0.250"],
        ["a", "structural", "0.250"],
        ["a", "mean", "0.250"],
        ["b", "logical", "0.250"],
        ["b", "mean", "0.250"],
        ["mean", "mean", "0.250"],
    ]


def test_datasets_are_listed_and_described(run_ad):
    out = run_ad("datasets")[1]
    assert all(name in out for name in ("folder", "mtd", "mvtec", "synthetic"))
    assert "MT_Free/Imgs" in run_ad("datasets", "mtd")[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["models"],
        ["models", "--json"],
        ["train", "--help"],
        ["synth", "--help"],
        ["datasets"],
        ["data", "--help"],
    ],
)
def test_light_commands_load_no_heavy_library(arguments):
    heavy = "torch timm scipy faiss torchvision sklearn"
    probe = (
        "import sys, contextlib, io\n"
        f"sys.argv = ['ad', *{arguments!r}]\n"
        "from ad.core.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main()\n"
        f"print(*[name for name in '{heavy}'.split() if name in sys.modules])"
    )
    command = [sys.executable, "-c", probe]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.strip() == ""


def test_no_command_prints_help():
    command = [sys.executable, "-c", "from ad.core.cli import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Usage" in done.stdout + done.stderr


def test_stopping_by_hand_has_status_130(run_ad, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ad.core.registry.ModelRegistry.names", stopped)
    assert run_ad("models")[0] == 130


def test_names_that_look_like_markup_or_are_no_text_do_no_harm(run_ad, trained, tmp_path):
    run, _, _ = trained
    odd = tmp_path / "odd"
    names = ["z[c].png", "part [red].png", f"{'long' * 55}.png", os.fsdecode(b"caf\xe9.png")]
    odd.mkdir()
    for name in names:
        Image.new("RGB", (40, 30)).save(odd / name)
    status, out, _ = run_ad("predict", run, odd, "--output", tmp_path / "found")
    assert status == 0
    flat = out.replace("\n", "").replace(" ", "")
    assert "z[c].png" in flat
    assert "part[red].png" in flat
    assert len(list((tmp_path / "found/heatmaps").iterdir())) == 4
    table = (tmp_path / "found/predictions.csv").read_bytes()
    assert b"caf\xe9.png" in table
    status, out, _ = run_ad("predict", run, odd, "--output", tmp_path / "again", "--json")
    assert status == 0
    assert out.isascii()
    assert [Path(p["path"]).name for p in json.loads(out)["predictions"]] == sorted(names)


def test_predictions_of_a_bare_model_folder_lie_beside_it(run_ad, trained, toy_root):
    run, _, _ = trained
    run_ad("predict", run / "model", toy_root / "toy/test/good")
    assert (run / "predictions/predictions.csv").is_file()
    assert sorted(path.name for path in (run / "model").iterdir()) == [
        "config.json", "manifest.json", "model.safetensors",
    ]  # fmt: skip


def test_heat_maps_are_named_after_what_tells_pictures_apart(run_ad, trained, toy_root, tmp_path):
    run, _, _ = trained
    run_ad("predict", run, toy_root / "toy/test", "--output", tmp_path / "found")
    names = sorted(path.name for path in (tmp_path / "found/heatmaps").iterdir())
    assert (names[0], names[-1]) == ("0001-good-000.jpg", "0008-square-003.jpg")


def test_the_threshold_is_counted_on_screen(run_ad, trained):
    _, _, err = run_ad("evaluate", trained[0])
    assert "at the threshold: 4 of 4 defective pictures found, " in err


def test_families_bring_commands_of_their_own(run_ad, monkeypatch):
    """A broken one breaks nothing but itself."""
    from importlib.metadata import EntryPoint

    from ad.core import cli

    points = [
        EntryPoint("greet", "ad.core.cli.datasets:datasets", "ad.commands"),
        EntryPoint("shout", "ad.core.nowhere:shout", "ad.commands"),
    ]
    monkeypatch.setattr(cli, "entry_points", lambda group: points)
    monkeypatch.setattr(cli.app, "registered_commands", [*cli.app.registered_commands])
    assert "MT_Free/Imgs" in run_ad("greet", "mtd")[1]
    status, _, err = run_ad("shout")
    assert status == 1
    assert err.startswith("error: The command `shout` (`ad.core.nowhere:shout` of `an unnamed")
    assert "shout" in run_ad("--help")[1]


def test_an_interrupted_run_has_the_signals_exit_status(run_ad, monkeypatch, mean_picture):
    from ad.core.errors import Interrupted

    def stopped(*arguments, **settings):
        msg = "Stopped by SIGTERM after step 3 of 9; what was learnt is saved."
        raise Interrupted(msg, 143)

    monkeypatch.setattr("ad.core.jobs.train.train", stopped)
    status, _, err = run_ad("train", "synthetic", "fabric", mean_picture, "--steps", 3)
    assert status == 143
    assert "Stopped by SIGTERM" in err


def test_train_and_evaluate_write_a_report_unless_told_not_to(
    run_ad, mean_picture, toy_root, tmp_path
):
    arguments = ("train", "mvtec", "toy", mean_picture, "--data-root", toy_root, "--output")
    status, out, err = run_ad(*arguments, tmp_path / "a", "--no-report", "--json")
    assert (status, json.loads(out)["report"]) == (0, None)
    report = tmp_path / "a/report.html"
    assert "report to look at" not in run_ad("evaluate", tmp_path / "a", "--no-report")[2]
    assert not report.exists()
    assert f"report to look at: {report}" in run_ad("evaluate", tmp_path / "a")[2]
    assert report.exists()
    _, _, err = run_ad(*arguments, tmp_path / "b")
    assert f"report to look at: {tmp_path / 'b/report.html'}" in err


def test_report_prints_the_file_it_wrote(run_ad, trained, tmp_path, monkeypatch):
    run, _, _ = trained
    status, out, err = run_ad("report", run)
    assert (status, out.strip()) == (0, str(run / "report.html"))
    assert "scored again with the saved model" in err
    monkeypatch.chdir(tmp_path)
    status, out, err = run_ad("report", run, run)
    assert (status, out.strip()) == (0, "comparison.html")
    assert (tmp_path / "comparison.html").stat().st_size > 1000
    assert run_ad("report", run, "--output", tmp_path / "x.pdf")[0] == 1


def test_serve_reads_its_options_itself(run_ad, tmp_path):
    status, out, _ = run_ad("serve", "--help")
    assert status == 0
    assert "usage: ad serve" in out
    assert "--token-file" in out
    status, out, err = run_ad("serve", tmp_path, "--host", "0.0.0.0")
    assert run_ad("serve", "--nothing")[0] == 2
    pytest.importorskip("starlette", reason="ad-core alone has no server")
    assert (status, out) == (1, "")
    assert "or `--without-token` if anybody may use it" in err


def test_predict_takes_the_options_of_a_gate(run_ad, trained, toy_root, tmp_path, monkeypatch):
    run, _, _ = trained
    good, bad = toy_root / "toy/test/good", toy_root / "toy/test"
    files = tmp_path / "l.txt"
    files.write_text(f"{good}/000.png\n")
    given = ("--quiet", "--no-heatmaps", "--no-report", "--fail-on-defect", "--threshold")
    status, out, err = run_ad("predict", run, "--list", files, *given, 1e6)
    assert (status, out, err) == (0, "", "1 picture: 1 good\n")
    status, out, err = run_ad("predict", run, f"{bad}/*/00*.png", *given, -1)
    assert (status, out) == (4, "")
    status, out, err = run_ad("predict", run, bad, "--threshold", -1, "--only", "defective")
    assert status == 0
    assert out.count("defective") == 8
    status, out, err = run_ad("predict", run, bad, "--threshold", 1e6, "--only", "defective")
    assert "8 good" in err
    assert out == ""
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("ad.runtime.results.SHOWN", 3)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    status, out, err = run_ad("predict", run, bad, "--json")
    scores = [one["score"] for one in json.loads(out)["predictions"]]
    status, out, err = run_ad("predict", run, bad, "--output", tmp_path / "o")
    shown = [line.split()[3] for line in out.splitlines() if ".png" in line]
    assert shown == [f"{score:.4g}" for score in sorted(scores, reverse=True)[:3]]
    assert f"the 3 highest scores; 5 more in {tmp_path / 'o/predictions.csv'}" in err
    status, out, err = run_ad("predict", run)
    assert status == 2
    assert "`--list FILE`" in err
