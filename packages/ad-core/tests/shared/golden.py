"""Golden numbers: what the authors' code makes of small seeded inputs, in `../shared/golden`.

Its README says of each file where it is from, what its tensors are and how close one has to come.
"""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

FOLDER = Path(__file__).parents[5] / "shared" / "golden"

needs_golden = [
    pytest.mark.data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no golden numbers in ../shared/golden"),
]
"""What a test file that reads golden numbers sets as its `pytestmark`."""

_WORD = np.uint64(2**32)  # the formula counts modulo this


class Golden:
    """One file; as a context, it sees that a test has looked at all that the file holds.

    Args:
        name: Without the suffix.
        only: Beginnings of names, where a test is of a part of the file.
        beyond: Tensors that the test leaves out; its docstring says why.
    """

    def __init__(self, name, *, only="", beyond=()):
        with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
            self._tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            facts = file.metadata() or {}
        self._parameters = json.loads(facts.get("parameters", "{}"))
        self._inputs = json.loads(facts.get("inputs", "{}"))
        assert self._tensors.keys() >= set(beyond)
        held = self._tensors.keys() | self._parameters.keys() | self._inputs.keys()
        self._left = {key for key in held if key.startswith(only)} - set(beyond)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        assert kind or not self._left, f"neither used nor compared: {sorted(self._left)}"

    def __getitem__(self, key):
        self._left.discard(key)
        return self._tensors[key]

    def layers(self, prefix):
        """The tensors of that name and a number, in their order."""
        return [self[key] for key in sorted(self._tensors) if key[:-1] == prefix]

    def keys_like(self, pattern):
        """The names that a pattern matches from their beginning, in their order."""
        return [key for key in sorted(self._tensors) if re.match(pattern, key)]

    def input(self, key):
        self._left.discard(key)
        return filled(**self._inputs[key])

    def fill(self, module, prefix):
        """Give a network the file's parameters whose names begin so, in the order of its own.

        All of both must be used up. Batch norm's counters, which eval mode does not read, stay.
        """
        given = {key: facts for key, facts in self._parameters.items() if key.startswith(prefix)}
        self._left -= given.keys()
        running = [key for key in given if ".running_" in key]
        own = [tensor for name, tensor in module.named_buffers() if ".running_" in f".{name}"]
        with torch.no_grad():
            for key, tensor in zip(
                [*(key for key in given if key not in running), *running],
                [*module.parameters(), *own],
                strict=True,
            ):
                assert tensor.shape == torch.Size(given[key]["shape"]), key
                tensor.copy_(filled(**given[key]))
        return module.eval()

    def check(self, ours, key, tolerance):
        """Compare by the rule of the README: the largest gap, against the largest number."""
        check_close(ours, self[key], tolerance, key)

    def check_change(self, before, after, key, key_before, tolerance):
        """Compare what a step has changed, not what it left."""
        check_close(after - before, self[key] - self[key_before], tolerance, key)


def check_close(ours, theirs, tolerance, what):
    ours, theirs = torch.as_tensor(ours).double(), torch.as_tensor(theirs).double()
    assert ours.shape == theirs.shape, what
    gap, largest = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    assert gap <= tolerance * largest, f"{what}: {gap:.3g} of {largest:.3g}"  # fails on NaN too


def filled(shape, seed, lo, hi):
    """The formula of the README: numbers of a hash, so that no file has to hold them."""
    index = np.arange(math.prod(shape), dtype=np.uint64)
    h = (np.uint64(2654435761) * index + np.uint64(40503 * seed + 12345)) % _WORD
    for _ in range(2):
        h ^= h >> np.uint64(16)
        h = np.uint64(0x45D9F3B) * h % _WORD
    h ^= h >> np.uint64(16)
    values = lo + (hi - lo) * (h / np.float64(_WORD))
    return torch.from_numpy(values.astype(np.float32)).view(shape)
