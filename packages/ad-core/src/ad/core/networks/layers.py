"""Layers of a network, which users name."""

from __future__ import annotations

from collections.abc import Sequence

from ad.core.errors import SettingError


def layer_indices(name: str, known: Sequence[str], layers: Sequence[str]) -> tuple[int, ...]:
    """Where the layers that are used are among those that a backbone has.

    Args:
        name: The backbone, for the error.
        known: Its layers, from shallow to deep.
        layers: Those that are used.

    Raises:
        SettingError: If there are none, one does not exist, or they are not from shallow to deep.
    """
    wrong = [layer for layer in layers if layer not in known]
    if wrong or not layers:
        blocks = all(layer == f"blocks.{number}" for number, layer in enumerate(known))
        some = f"`{known[0]}` to `{known[-1]}`" if blocks else ", ".join(f"`{k}`" for k in known)
        msg = (
            f"`layers` of backbone `{name}` must be some of {some}; "
            f"got {', '.join(f'`{layer}`' for layer in wrong) or 'none'}."
        )
        raise SettingError(msg)
    indices = tuple(known.index(layer) for layer in layers)
    if list(indices) != sorted(set(indices)):
        msg = f"`layers` must go from shallow to deep, each once; got {', '.join(layers)}."
        raise SettingError(msg)
    return indices
