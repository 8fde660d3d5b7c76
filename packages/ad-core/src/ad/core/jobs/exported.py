"""What an exported model cannot be asked for, though a run can. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from ad.core.errors import SettingError


def refuse_for_exported(path: Path, precision: str, *, compile: bool) -> None:
    """Refuse what was settled when it was exported.

    Args:
        path: Where it is.
        precision: ``auto``, or what was asked for.
        compile: Whether it was asked to be compiled.

    Raises:
        SettingError: If either was asked for.
    """
    if precision != "auto":
        msg = (
            f"`precision` {precision}: `{path}` is an exported model, which is always computed in "
            "that of its export. Leave it out."
        )
        raise SettingError(msg)
    if compile:
        msg = (
            f"`compile`: `{path}` is an exported model, which its engine has translated already. "
            "Leave it out."
        )
        raise SettingError(msg)
