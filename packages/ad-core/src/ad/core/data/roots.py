"""What a user gives as the folder of a data set: one, or several as ``normal=DIR,abnormal=DIR``."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from ad.runtime.pictures.walking import OTHER_FORMAT, VIDEO, everything_below


def parts_of(root: str | Path) -> list[tuple[str, str]]:
    """Keys and folders of a root such as ``normal=DIR,abnormal=DIR``; paths may have commas."""
    pieces = (piece.partition("=") for piece in re.split(r",(?=\w+=)", str(root)))
    return [(key, value) for key, _, value in pieces]


def homes(root: Path) -> list[Path]:
    """The folders of a data root; none for a table: what it does not name is none of its data."""
    if root.is_dir():
        return [root]
    return [Path(value) for _, value in parts_of(root)] if "=" in str(root) else []


def not_read(root: Path) -> str:
    """Which formats lie there that are not read, for an error; empty if there are none."""
    found = (one for home in homes(root) for one in everything_below(home))
    others = Counter(
        one.path.suffix for one in found if one.why in (OTHER_FORMAT, VIDEO) and one.path.suffix
    )
    formats = ", ".join(f"{count} of `{suffix}`" for suffix, count in others.most_common(3))
    return f" There are files of formats that are not read: {formats}." if formats else ""
