"""`ad demo`: the whole way on pictures made on the spot, without any download."""

from __future__ import annotations

from pathlib import Path

HOME = Path("ad-demo")
MODEL = "patchcore"
# By measurement: a ResNet-18 with random weights finds far less, see benchmarks/demo.py.
OPTIONS = {
    "backbone": "filter_bank",
    "layers": ("fine", "coarse"),
    "embedding": "concatenated",
    "coreset_ratio": 0.02,
}


def demo() -> None:
    """Make pictures, train on them, test, and write heat maps to look at. Works offline.

    Example: [bold]ad demo[/bold]
    """
    from ad.core.cli.console import ConsoleProgress, loading, say
    from ad.core.cli.train import print_result
    from ad.core.data.finding import collect
    from ad.core.data.synthetic.dataset import DATASET
    from ad.core.registry import ModelRegistry
    from ad.core.saved.claims import make_free_folder

    ModelRegistry.get(MODEL)  # says what to install before the pictures are made
    with loading():
        from ad.core.jobs.inspect import inspect
        from ad.core.jobs.train import train
    say(
        "Four products drawn by code, good and defective; one PatchCore detector for all of them.\n"
        "Its features come from a fixed filter bank: nothing pretrained, nothing downloaded.\n"
    )
    progress = ConsoleProgress()
    pictures = HOME / "pictures"
    samples = collect(DATASET, "all", root=pictures, seed=0, progress=progress)
    run = make_free_folder(HOME / "run")
    result = train(
        "synthetic",
        "all",
        MODEL,
        data_root=pictures,
        output_dir=run,
        model=OPTIONS,
        progress=progress,
    )
    first = {(s.category, s.group): s.path for s in reversed(samples) if s.split == "test"}
    shown = inspect(run, sorted(first.values()), output=run / "predictions", progress=progress)
    say("")
    print_result(result)
    say(
        f"\nLook at the heat maps in {shown.output / 'heatmaps'}: one of each kind of defect, and "
        "good ones.\n"
        "The real thing has a pretrained backbone, which is better and downloaded once:\n"
        f"  ad train synthetic all {MODEL}"
    )
