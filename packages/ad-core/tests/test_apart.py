"""Good pictures far above all others, which set the threshold by themselves."""

import numpy as np
import pytest
from PIL import Image

from ad.core import train
from ad.core.thresholds.verdicts import calibration_notes, renewed_notes
from ad.runtime.calibration.apart import apart, apart_notes
from ad.runtime.calibration.by_rate import calibrate


def draws(count, size):
    return np.sort(np.random.default_rng(5).exponential(size=(count, size)), axis=1)


def test_a_gap_is_told_as_rarely_as_draws_have_it():
    """Against the largest gaps of 100,000 draws, for one picture that is apart and for two."""
    scores = draws(100_000, 24)
    for high in (1, 2):
        below = scores[:, -high - 1]
        spread = below - scores[:, 12]
        ratio = np.quantile((scores[:, -high] - below) / spread, 0.999)
        base = scores[0].copy()
        base[-high:] = base[-high - 1]
        for factor, expected in ((0.8, 0), (1.25, high)):
            told = base.copy()
            told[-high:] += ratio * factor * (base[-high - 1] - base[12])
            assert apart(told.tolist(), rank=24 - (high - 1)) == expected


@pytest.mark.parametrize(
    ("scores", "rank"),
    [
        ([1, 2, 3, 400], 4),  # too few to know how they spread
        ([1.0] * 19 + [1.1], 20),  # no spread
        ([*range(199), 5000], 199),  # the threshold is set by the one below
    ],
)
def test_nothing_is_told_where_nothing_can_be_said(scores, rank):
    assert apart(scores, rank) == 0


def test_the_note_says_so_once_with_figures_and_is_renewed_with_the_threshold():
    usual = [1 + 0.02 * number for number in range(19)]
    found = calibrate([*usual, 3.5])
    [note] = apart_notes(found)
    assert note.startswith("Apart: 1 good picture lies far above the other 19: 3.5 where the next")
    assert "1.36" in note
    assert "ad calibrate RUN --normals DIR" in note
    assert calibration_notes(found)[1:] == [note]
    better = calibrate(usual)
    notes = renewed_notes([*calibration_notes(found), "Another."], better, None, 1)
    assert notes == [*calibration_notes(better), "Another."]
    assert apart_notes(better) == []
    assert apart_notes(found.by_hand(2)) == []
    pair = calibrate([*usual, *usual, 3.5, 3.6])
    assert "2 good pictures lie far above the other 38: 3.5 where" in apart_notes(pair)[0]


def test_a_black_picture_among_good_ones_is_named(mean_picture, tmp_path):
    rng = np.random.default_rng(0)
    good = tmp_path / "parts" / "good"
    good.mkdir(parents=True)
    for number in range(12):
        pixels = rng.integers(100, 120, (32, 32, 3), np.uint8)
        Image.fromarray(pixels * (number != 7)).save(good / f"{number:02d}.png")
    told = []

    class Listening:
        def step(self, name, **_):
            from ad.runtime.progress import SILENT

            return SILENT.step(name, total=0, unit="")

        def tell(self, text):
            told.append(text)

    result = train(
        "folder", tmp_path / "parts", mean_picture, img_size=32, holdout="cross",
        output_dir=tmp_path / "run", report=False, progress=Listening(),
    )  # fmt: skip
    assert any(f"`{good / '07.png'}` scores" in text for text in told)
    assert any(note.startswith("Apart: 1 good picture") for note in result.notes)
