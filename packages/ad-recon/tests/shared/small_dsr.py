"""A DSR that is small enough for tests, and what it learns from."""

from functools import partial

import tiny_batches
import torch
from safetensors.torch import save_file

from ad.core import Setup
from ad.recon.dsr.trainer import DsrTrainer
from ad.recon.dsr.vq import VqModel

SIZE = 64
images = partial(tiny_batches.images, SIZE)
SMALL = {"embedding_dim": 8, "num_embeddings": 32, "width": 4}


def trainer(options=None, **changes):
    values = {"img_size": SIZE, "normalize": False, "batch_size": 2, **changes}
    return DsrTrainer(Setup(**values), **{**SMALL, "vq_steps": 3, **(options or {})})


def trained(**changes):
    """A detector that gives scores, of random weights."""
    one = trainer(**changes)
    one.prepare(None)
    return one.detector


def pictures(count=5, *, start=0):
    return tiny_batches.pictures(SIZE, count, start=start)


def generators(count, start=0):
    return [torch.Generator().manual_seed(start + row) for row in range(count)]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantizer_file(path, state, **changes):
    save_file({name: tensor.contiguous() for name, tensor in {**state, **changes}.items()}, path)
    return path


def other_quantizer():
    torch.manual_seed(7)
    return VqModel(8, 32, 4)
