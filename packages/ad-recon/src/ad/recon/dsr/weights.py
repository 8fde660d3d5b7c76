"""Reads a quantiser that was trained elsewhere: by this package, or by DSR's authors.

The authors' quantiser learnt from pictures whose channels are blue, green, red. A file with their
names is taken to be of that kind: the channels of the first and of the last layer are turned round
once, while loading, and from then on it takes and gives red, green, blue as all else does.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ad.core.networks import fitting_weights, given_file, read_weights
from ad.recon.dsr.vq import VqModel

_OWN_PREFIX = "vq."  # in the file of a trained detector

_AUTHORS_NAMES = {
    "_encoder_b._conv_1.": "encoder_hi.0.",
    "_encoder_b._conv_2.": "encoder_hi.2.",
    "_encoder_b._conv_3.": "encoder_hi.4.",
    "_encoder_b._residual_stack._layers.": "encoder_hi.5.",
    "_encoder_t._conv_1.": "encoder_lo.0.",
    "_encoder_t._conv_2.": "encoder_lo.2.",
    "_encoder_t._residual_stack._layers.": "encoder_lo.4.",
    "_pre_vq_conv_top.": "to_lo.",
    "_pre_vq_conv_bot.": "to_hi.",
    "_vq_vae_top._embedding.weight": "quantizer_lo.codes",
    "_vq_vae_bot._embedding.weight": "quantizer_hi.codes",
    "upsample_t.": "up.",
    "_decoder_b._conv_1.": "decoder.0.",
    "_decoder_b._residual_stack._layers.": "decoder.1.",
    "_decoder_b._conv_trans_1.": "decoder.2.",
    "_decoder_b._conv_trans_2.": "decoder.4.",
}
_AUTHORS_BLOCK = {"._block.1.": ".block.0.", "._block.3.": ".block.2."}

_PICTURES_IN, _PICTURES_OUT = "encoder_hi.0.weight", ("decoder.4.weight", "decoder.4.bias")


def load_quantizer(vq: VqModel, file: Path) -> None:
    """Load a quantiser's weights.

    Args:
        vq: Gets them, on whatever device it is.
        file: Safetensors, with the names of `VqModel`, with those of a trained detector
            (``model/model.safetensors`` of a run), or with the authors'.

    Raises:
        WeightsError: If there is no such file, it is a pickle or unreadable, or its tensors do not
            fit.
    """
    allowed = (
        "`vq_weights` must be a safetensors file; leave it out to learn a quantiser from the "
        "pictures."
    )
    file = given_file(str(file), whose="the quantiser's", allowed=allowed)
    fitting = fitting_weights(
        _as_ours(read_weights(file)),
        vq.state_dict(),
        file,
        owner="DSR's quantiser",
        if_missing="`vq_weights` must be a trained DSR's `model.safetensors`, or the authors' "
        "state as safetensors.",
        if_other="Set `embedding_dim`, `num_embeddings` and `width` as the file's were (the "
        "authors': 128, 4096 and 64).",
    )
    vq.load_state_dict(fitting)


def _as_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names of `VqModel`, for pictures in red, green, blue."""
    if any(name.startswith(_OWN_PREFIX) for name in state):  # all else is the detector's
        return {
            name.removeprefix(_OWN_PREFIX): tensor
            for name, tensor in state.items()
            if name.startswith(_OWN_PREFIX)
        }
    if not any(name.startswith("_encoder_b.") for name in state):
        return state
    renamed = {_renamed(name): tensor for name, tensor in state.items()}
    for name, dim in ((_PICTURES_IN, 1), (_PICTURES_OUT[0], 1), (_PICTURES_OUT[1], 0)):
        if name in renamed:
            renamed[name] = torch.flip(renamed[name], (dim,))
    return renamed


def _renamed(name: str) -> str:
    for theirs, ours in _AUTHORS_NAMES.items():
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            break
    for theirs, ours in _AUTHORS_BLOCK.items():
        name = name.replace(theirs, ours)
    return name
