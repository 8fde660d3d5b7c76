import sys

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser
from random_pictures import random_images
from scipy import ndimage

from ad.core import ModelRegistry
from ad.core.cli import main
from ad.core.testing.pictures import write_mvtec_tree


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A real browser, for pages."""
    if CHROMIUM is None:
        pytest.skip("no `chromium`: apt-get install chromium")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


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
def student():
    """One that learns by gradient."""
    ModelRegistry.register(
        "linear-student",
        "ad.core.testing.linear_student:LinearStudentTrainer",
        {"dropout": 0.2},
        {"num_epochs": 4, "batch_size": 4, "img_size": 16, "normalize": False},
    )
    yield "linear-student"
    ModelRegistry.unregister("linear-student")


@pytest.fixture
def whole():
    """One that does not localise."""
    ModelRegistry.register(
        "whole",
        "whole_picture:WholeTrainer",
        {},
        {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": False},
    )
    yield "whole"
    ModelRegistry.unregister("whole")


@pytest.fixture
def toy_root(tmp_path):
    """One category, `toy`, in MVTec AD's layout."""
    return write_mvtec_tree(tmp_path / "data", size=32)


@pytest.fixture
def levels():
    """Two pictures of whole levels, one of them in few of them."""
    coarse = (random_images(2, 3, 7, 6, seed=1) * 255).numpy()
    large = np.stack([ndimage.zoom(one, (1, 6, 6), order=1) for one in coarse])
    large[1] = large[1] * 0.4 + 60
    return torch.from_numpy(large).round().clamp(0, 255).float()


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


@pytest.fixture
def roots(tmp_path):
    """Two categories of tiny pictures."""
    first = write_mvtec_tree(tmp_path / "first", "toy", size=32)
    write_mvtec_tree(tmp_path / "first", "other", size=32)
    return first
