"""The picture of noise whose score an export carries: here and where it was exported."""

import dataclasses

import numpy as np
import pytest
from tiny_export import bright_model, brightness, constant, make_export

from ad.runtime import load
from ad.runtime.cli import main
from ad.runtime.framing import Size
from ad.runtime.probe import compared, noise, probe_score


@pytest.fixture
def true(tmp_path):
    """What a picture of noise scores, of `brightness`."""
    return float(brightness(noise(Size(32, 32)))[0][0])


def verified(capsys, folder):
    with pytest.raises(SystemExit) as stopped:
        main(["verify", str(folder)])
    said = capsys.readouterr()
    return stopped.value.code, said.out, said.err


def test_the_noise_stays_what_exports_were_made_with():
    assert noise(Size(1, 2)).tolist() == [[[[242, 214, 245], [48, 21, 170]]]]
    several = noise(Size(8, 6), 3)
    assert (several.shape, several.dtype) == ((3, 8, 6, 3), np.uint8)
    assert len(np.unique(several.reshape(3, -1), axis=0)) == 3


def test_an_export_that_scores_as_it_did_is_told_so(capsys, true, tmp_path):
    make_export(tmp_path / "e", parity={"noise_score": true * 1.009})
    assert probe_score(load(tmp_path / "e")) == pytest.approx(true, rel=1e-6)
    status, out, _ = verified(capsys, tmp_path / "e")
    assert status == 0
    assert f"a picture of noise scores {true:.6g} here, and {true * 1.009:.6g} where it was" in out
    assert " runs it: " in out


@pytest.mark.parametrize("factor", [1.02, 0.98, -1, 0])
def test_one_that_scores_otherwise_fails(capsys, true, tmp_path, factor):
    make_export(tmp_path / "e", parity={"noise_score": true * factor})
    status, out, err = verified(capsys, tmp_path / "e")
    assert status == 1
    assert "runs it" not in out
    assert f"A picture of noise scores {true:.6g} here, and {true * factor:.6g} where" in err
    assert "cpu does not compute what it did there, and the threshold does not hold" in err
    assert f"calibrate {tmp_path / 'e'} --normals DIR" in err


def test_of_less_precision_both_scores_are_told_and_not_judged(true, tmp_path):
    make_export(tmp_path / "e")
    runtime = load(tmp_path / "e")
    runtime.config = dataclasses.replace(runtime.config, precision="bf16")  # as if it were
    told = compared(runtime, {"noise_score": 2 * true})
    assert told.endswith(f"scores {true:.6g} here, and {2 * true:.6g} where it was exported")


@pytest.mark.parametrize("level", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_not_kept(tmp_path, level):
    # The graph of `brightness`, divided by what makes it no finite number.
    model = bright_model()
    (white,) = (one for one in model.graph.initializer if one.name == "white")
    white.CopyFrom(constant("white", 1, 0.0 if level == np.inf else np.nan))
    make_export(tmp_path / "e", model=model)
    assert probe_score(load(tmp_path / "e")) is None


@pytest.mark.parametrize("parity", [None, {"schema": 1}, {"noise_score": None}])
def test_one_without_a_score_is_told_not_to_be_compared(capsys, tmp_path, parity):
    make_export(tmp_path / "e", parity=parity)
    status, out, _ = verified(capsys, tmp_path / "e")
    assert status == 0
    assert "its scores are not compared: it holds no score of a picture of noise" in out
