"""Times a run or an exported model on this machine's CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ad.core.errors import SettingError
from ad.core.predict import load
from ad.core.predict.loading import read_config
from ad.runtime.bench.benchmark import PICTURES, Benchmark, Way, measured
from ad.runtime.bench.benchmark import benchmark as benchmark_export
from ad.runtime.bench.measuring import Opened
from ad.runtime.package import is_exported
from ad.runtime.paths import given_path
from ad.runtime.progress import SILENT, Progress


def benchmark(
    model: str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    threads: Sequence[int] | None = None,
    engine: str = "all",
    pictures: int = PICTURES,
    progress: Progress = SILENT,
) -> Benchmark:
    """Time a model, one picture after the other, from its file to its verdict.

    Args:
        model: A run directory, which is timed by torch in the precision of its threshold and in
            fp32; or what `ad export` wrote, see `ad.runtime.bench.benchmark`.
        size: Of the picture, in pixels; what the model sees by default.
        threads: Numbers of threads to try; as many as there are cores by default.
        engine: ``all``; of a run ``torch`` is the same.
        pictures: How many are timed in each.
        progress: Where to show how far it is.

    Raises:
        SettingError: If a setting cannot be.
        WorkerError: If it cannot be timed.
        ModelFileError: If it is no model.
    """
    path = given_path(model, "the run")
    if is_exported(path):
        return benchmark_export(
            path, size=size, threads=threads, engine=engine, pictures=pictures, progress=progress
        )
    if engine not in ("all", "torch"):
        msg = (
            f"`engine` {engine}: `{path}` is a run, which torch computes. For other engines give "
            "what `ad export` wrote."
        )
        raise SettingError(msg)
    config = read_config(path)
    precisions = dict.fromkeys((config.precision, "fp32"))
    run = {"path": str(path.absolute())}
    opener = "ad.core.jobs.benchmark:open_run"
    return measured(
        [Way(opener=opener, given={**run, "precision": precision}) for precision in precisions],
        model=config.model,
        size=config.framing.size if size is None else size,
        threads=threads,
        pictures=pictures,
        progress=progress,
    )


def open_run(path: str, *, precision: str, threads: int) -> Opened:
    """A run's model in torch, for `ad.runtime.bench.measuring`."""
    import torch

    torch.set_num_threads(threads)
    detector = load(path, device="cpu", precision="bf16" if precision == "bf16" else "fp32")
    return detector.predict, f"torch {torch.__version__.partition('+')[0]} {precision} cpu"
