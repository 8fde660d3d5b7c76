from pathlib import Path

import pytest
import torch

from ad.core import Setup, Size
from ad.core.errors import DataError
from ad.core.testing import check_model
from ad_example.picture_list import DATASET
from ad_example.spread import SpreadTrainer


def test_the_model_keeps_its_promises() -> None:
    check_model("spread")


def test_mean_and_spread_are_those_of_the_pictures() -> None:
    trainer = SpreadTrainer(Setup(img_size=Size(16, 16), normalize=False), floor=0.1)
    images = torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    trainer.observe(images[:4])
    trainer.observe(images[4:])
    trainer.conclude()
    torch.testing.assert_close(trainer.detector.mean, images.mean(dim=0))
    expected = images.std(dim=0, correction=0).clamp_min(0.1)
    torch.testing.assert_close(trainer.detector.spread, expected)


def test_a_table_becomes_samples(tmp_path: Path) -> None:
    lines = ["picture,kind,mask", "a.png,train,", "b.png,good,", "c.png,dent,m.png", "d.png,dent,"]
    (tmp_path / "pictures.csv").write_text("\n".join(lines))
    assert DATASET.categories(tmp_path) == [tmp_path.name]
    found = DATASET.samples(tmp_path, "parts", 0)
    assert [(s.path.name, s.label, s.split, s.group) for s in found] == [
        ("a.png", 0, "train", "good"),
        ("b.png", 0, "test", "good"),
        ("c.png", 1, "test", "dent"),
        ("d.png", 1, "test", "dent"),
    ]
    assert [s.masks for s in found] == [(), (), (tmp_path / "m.png",), ()]


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pictures.csv").write_text("file,kind\na.png,train\n")
    with pytest.raises(DataError, match="must have the columns picture, kind, mask; no 'picture'"):
        DATASET.samples(tmp_path, "parts", 0)
