"""Who computes what, and when: batches where they are worth it, and one bad one alone."""

import threading

import numpy as np
import pytest
from serving import bright, runtime_of

from ad.runtime.config import Input
from ad.runtime.errors import SettingError
from ad.runtime.serve.queue import Inference, shared_out


def frames(*levels):
    return np.stack([np.full((32, 32, 3), level, np.uint8) for level in levels])


class Gate:
    """An engine that waits at its first batch, fails on white, and notes what it was given."""

    def __init__(self):
        self.open, self.entered, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, batch):
        self.entered.set()
        assert self.open.wait(20)
        levels = batch[:, 0, 0, 0].tolist()
        self.batches.append(levels)
        if 255 in levels:
            msg = "white"
            raise RuntimeError(msg)
        return bright(batch)


def submitted(device, groups):
    """Scores, or what went wrong, of groups that all wait while the first frame is computed."""
    gate = Gate()
    inference = Inference(1)
    other = runtime_of(gate, device=device, input=Input(max_batch=4))
    runtime = runtime_of(gate, device=device, input=Input(max_batch=4))
    noted = []
    took = lambda stage, seconds: noted.append(stage)  # noqa: E731
    first = inference.submit(other, frames(0), took)
    assert gate.entered.wait(20)
    futures = [inference.submit(runtime, frames(*group), took) for group in groups]
    gate.open.set()
    first.result(20)
    results = [f.exception(20) or f.result()[0].round(2).tolist() for f in futures]
    inference.close()
    return gate.batches[1:], results, noted


def test_on_a_cpu_each_is_computed_alone():
    batches, results, noted = submitted("cpu", [[51], [102], [153]])
    assert batches == [[51], [102], [153]]
    assert np.allclose(results, [[0.2], [0.4], [0.6]])
    assert sorted(noted) == ["infer"] * 4 + ["wait"] * 4


def test_elsewhere_what_waits_is_taken_together_up_to_the_largest_batch():
    batches, results, _ = submitted("cuda", [[51], [102, 153], [204, 51], [0]])
    assert batches == [[51, 102, 153, 0], [204, 51]]  # the third does not fit in, the fourth does
    assert np.allclose(sum(results, []), [0.2, 0.4, 0.6, 0.8, 0.2, 0], atol=0.01)


def test_one_that_fails_fails_alone():
    batches, results, noted = submitted("cuda", [[51], [255], [102]])
    assert batches == [[51, 255, 102], [51], [255], [102]]
    assert np.allclose([results[0], results[2]], [[0.2], [0.4]])
    assert str(results[1]) == "white"
    assert noted.count("wait") == 4


def test_what_was_given_up_is_not_computed_and_the_end_drops_the_rest():
    gate = Gate()
    inference = Inference(1)
    runtime = runtime_of(gate)
    took = lambda stage, seconds: None  # noqa: E731
    first = inference.submit(runtime, frames(1), took)
    assert gate.entered.wait(20)
    given_up = inference.submit(runtime, frames(2), took)
    waits = inference.submit(runtime, frames(3), took)
    assert given_up.cancel()
    gate.open.set()
    first.result(20)
    waits.result(20)
    assert gate.batches == [[1], [3]]
    inference.close()
    with pytest.raises(RuntimeError):
        inference.submit(runtime, frames(1), took)


@pytest.mark.parametrize(
    ("given", "threads"), [((8, 2, None), 4), ((8, 3, None), 2), ((8, 8, 1), 1), ((2, 1, None), 2)]
)
def test_cores_are_shared_out(given, threads):
    assert shared_out(*given) == threads


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((2, 3, None), "`--workers` must be from 1 to 2, the cores"),
        ((2, 0, None), "got 0"),
        ((4, 2, 3), "`--workers 2` times `--threads 3` must be from 1 to 4"),
        ((4, 2, 0), "more only wait for each other"),
    ],
)
def test_more_threads_than_cores_are_refused(given, words):
    with pytest.raises(SettingError, match=words):
        shared_out(*given)
