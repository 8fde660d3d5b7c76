"""Runs of a bench in processes that die: the others finish, and so do they in the end."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ad.core.bench import run_bench
from ad.core.bench.executors import LocalExecutor, RayExecutor
from ad.core.bench.jobs import plan
from ad.core.testing import write_mvtec_tree

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc"),
]


def planned(tmp_path, models):
    root = write_mvtec_tree(tmp_path / "data", "toy", size=32)
    return plan(
        ["mvtec"], ["toy"], models, seeds=[0], output=tmp_path / "out",
        data_roots={"mvtec": str(root)}, weights="random", img_size=64, device="cpu",
    )  # fmt: skip


def processes(having):
    """Numbers of the processes whose command line has a text."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and having in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return found


def kill_when(condition, having):
    """Kill one process that has a text in its command line, once a condition holds."""

    def wait():
        while not condition():
            time.sleep(0.01)
        for number in processes(having)[:1]:
            os.kill(number, signal.SIGKILL)
            killed.append(number)

    killed = []
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return killed


def test_a_killed_process_costs_only_itself(tmp_path):
    jobs = planned(tmp_path, ["padim-resnet18", "dfkde"])
    victim = jobs[0].name.encode()
    killed = kill_when(lambda: processes(victim), victim)
    outcomes = run_bench(jobs, LocalExecutor(2), output=tmp_path / "out")
    assert len(killed) == 1
    assert outcomes[0].reason == "It was killed by SIGKILL."
    assert outcomes[1].error is None, outcomes[1].error
    again = run_bench(jobs, LocalExecutor(2), output=tmp_path / "out")
    assert [outcome.error for outcome in again] == [None, None]
    assert [outcome.skipped for outcome in again] == [False, True]


def begun(tmp_path):
    """A bench on a model that learns for hours, and the folder of its run, once it does."""
    root = write_mvtec_tree(tmp_path / "data", "toy", size=32)
    words = ["bench", "mvtec", "toy", "autoencoder", "--data-root", root, "--device", "cpu"]
    words += ["--output", tmp_path / "out", "--steps", 1_000_000, "--img-size", 64]
    command = [sys.executable, "-m", "ad.core.cli", *map(str, words)]
    pipe = subprocess.PIPE
    bench = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    while not any(
        '"epoch"' in log.read_text() for log in (tmp_path / "out/runs").glob("*/log.jsonl")
    ):
        assert bench.poll() is None, bench.communicate()
        time.sleep(0.05)
    (folder,) = (path for path in (tmp_path / "out/runs").iterdir() if path.is_dir())
    return bench, folder


def test_a_bench_that_is_told_to_stop_lets_its_runs_save(tmp_path):
    bench, folder = begun(tmp_path)
    bench.send_signal(signal.SIGTERM)
    _, said = bench.communicate(timeout=100)
    assert bench.returncode == 143, said
    assert "error: Stopped by SIGTERM; the runs that were going on were told to save" in said
    assert processes(str(folder).encode()) == []
    assert "error: Stopped by SIGTERM after step" in folder.with_suffix(".log").read_text()
    assert (folder / "checkpoint").is_dir()


def test_a_run_that_outlives_its_bench_is_left_alone_by_the_next(tmp_path):
    bench, folder = begun(tmp_path)
    bench.kill()
    bench.communicate()
    (run,) = processes(str(folder).encode())
    try:
        again = subprocess.run(bench.args, capture_output=True, text=True, timeout=100, check=False)
        assert again.returncode == 1
        assert f" failed: Another process trains in `{folder}`, so nothing" in again.stderr
        assert processes(str(folder).encode()) == [run]
    finally:
        os.kill(run, signal.SIGTERM)
    while processes(str(folder).encode()):
        time.sleep(0.05)
    assert (folder / "checkpoint").is_dir()


def test_ray_begins_the_run_of_a_killed_worker_again(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    jobs = planned(tmp_path, ["padim-resnet18", "patchcore-resnet18"])
    killed = kill_when(
        lambda: any((job.folder / "log.jsonl").exists() for job in jobs), b"ray::train_here"
    )
    outcomes = run_bench(jobs, RayExecutor(cores=1), output=tmp_path / "out")
    assert len(killed) == 1
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert all(outcome.metrics["image_auroc"] is not None for outcome in outcomes)
