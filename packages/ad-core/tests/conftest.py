import sys

import pytest

from ad.core import ModelRegistry
from ad.core.cli import main
from ad.core.testing.pictures import write_mvtec_tree


@pytest.fixture
def mean_picture():
    """A tiny registered model, forgotten after the test."""
    ModelRegistry.register(
        "mean-picture",
        "ad.core.testing.mean_picture:MeanPictureTrainer",
        {"gain": 1.0},
        {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": False},
    )
    yield "mean-picture"
    ModelRegistry.unregister("mean-picture")


@pytest.fixture
def toy_root(tmp_path):
    """One category, `toy`, in MVTec AD's layout."""
    return write_mvtec_tree(tmp_path / "data", size=32)


@pytest.fixture
def run_ad(monkeypatch, capsys):
    """Run the command line in this process: exit status, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ad", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as stopped:
            status = stopped.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
