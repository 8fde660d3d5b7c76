"""Puts a page's data, style and script into one HTML file that needs nothing else.

The parts are in the folder ``page``: ``page.html`` is the frame, ``run.html`` and
``comparison.html`` are what is inside, each with a script of its own after ``shared.js``.

Names of files and kinds of defects are strangers' texts. They get into the page as JSON in which
nothing can end or start a tag, and from there as text only; and a policy in the page's head lets
no script run but the one whose hash it names, and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from ad.runtime.files import write_atomic


def write_page(
    path: Path, kind: Literal["run", "comparison"], title: str, data: Mapping[str, Any]
) -> None:
    """Write a page, whole or not at all.

    Args:
        path: The file.
        kind: Which page.
        title: For the window's title.
        data: What ``run.js`` or ``comparison.js`` shows; JSON values only.

    Raises:
        OutputError: If it cannot be written.
    """
    style = _part("page.css")
    script = _part("shared.js") + _part(f"{kind}.js")
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_hash(style)}; script-src {_hash(script)}"
    )
    parts = {
        "policy": policy,
        "title": html.escape(title),
        "style": style,
        "body": _part(f"{kind}.html"),
        "data": to_script_json(data),
        "script": script,
    }
    # In one pass: what is put in is not searched for more places.
    page = re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _part("page.html"))
    write_atomic(path, page.encode(errors="replace"))  # a title may be no valid text


def to_script_json(value: object) -> str:
    """JSON that is safe in a ``<script>`` element: ASCII, and no character that HTML knows."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


def data_uri(webp: bytes) -> str:
    """A picture as a ``data:`` address."""
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"


def _part(name: str) -> str:
    return (files("ad.core.report") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
