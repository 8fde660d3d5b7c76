"""A model that gives what is no number is named, with the command that tries it."""

import pytest
import torch

from ad.core import Prediction, train
from ad.core.errors import DataError, LearningError
from ad.core.testing.linear_student import LinearStudentTrainer
from ad.core.testing.mean_picture import MeanPictureDetector


def test_a_model_whose_scores_are_no_numbers_is_named(
    mean_picture, toy_root, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    scored = MeanPictureDetector.forward

    def forward(self, images):
        found = scored(self, images)
        return Prediction(found.score * torch.nan, found.map)

    monkeypatch.setattr(MeanPictureDetector, "forward", forward)
    with pytest.raises(DataError) as raised:
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=run, holdout=0.2)
    assert str(raised.value) == (
        "`scores` must be finite float32 numbers; entry 0 is nan.\n"
        "hint: they are scores of model `mean-picture`; `ad check mean-picture` tries it"
    )


def test_a_model_whose_loss_is_no_number_is_named(student, toy_root, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(
        LinearStudentTrainer, "losses", lambda self, batch: {"gap": torch.tensor(torch.nan)}
    )
    with pytest.raises(LearningError) as raised:
        train("mvtec", "toy", student, data_root=toy_root, output_dir=run)
    told, hint = str(raised.value).split("\n")
    assert told.startswith("The loss is not finite at step 1 of ")
    assert hint == (
        f"hint: if `{student}` gets here with any pictures, `ad check {student}` tries it"
    )
    assert not (run / "run.json").exists()  # as after any run that learnt nothing
