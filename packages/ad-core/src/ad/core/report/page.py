"""Puts a page's data, style and script into one HTML file that needs nothing else.

The parts are in the folder ``page``: ``page.html`` is the frame; ``run.html``,
``predictions.html`` and ``comparison.html`` are what is inside, each with a script of its own after
those that it shares. Those with a gallery have ``slider.html`` and ``viewer.html``, too.

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
from typing import Any, Literal, overload

from ad.runtime.files import write_atomic

Kind = Literal["run", "predictions", "comparison"]
_WITH_PICTURES = ("shared", "scores", "gallery")
_SHARED: dict[Kind, tuple[str, ...]] = {
    "run": _WITH_PICTURES,
    "predictions": _WITH_PICTURES,
    "comparison": ("shared", "scatter"),
}
"""The scripts before each kind's own."""


def write_page(path: Path, kind: Kind, title: str, data: Mapping[str, Any]) -> None:
    """Write a page, whole or not at all.

    Args:
        path: The file.
        kind: Which page.
        title: For the window's title.
        data: What the kind's own script shows; JSON values only.

    Raises:
        OutputError: If it cannot be written.
    """
    style = _part("page.css")
    script = "".join(_part(f"{name}.js") for name in (*_SHARED[kind], kind))
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_hash(style)}; script-src {_hash(script)}"
    )
    parts = {
        "policy": policy,
        "title": html.escape(title),
        "style": style,
        "body": _body(kind),
        "data": to_script_json(data),
        "script": script,
    }
    # In one pass: what is put in is not searched for more places.
    page = re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _part("page.html"))
    write_atomic(path, page.encode(errors="replace"))  # a title may be no valid text


def _body(kind: Kind) -> str:
    body = _part(f"{kind}.html")
    if kind == "comparison":
        return body
    return body.replace("{{slider}}", _part("slider.html")) + _part("viewer.html")


def to_script_json(value: object) -> str:
    """JSON that is safe in a ``<script>`` element: ASCII, and no character that HTML knows."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


@overload
def data_uri(webp: bytes) -> str: ...
@overload
def data_uri(webp: bytes | None) -> str | None: ...
def data_uri(webp: bytes | None) -> str | None:
    """A picture as a ``data:`` address; None where there is none."""
    if webp is None:
        return None
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"


def _part(name: str) -> str:
    return (files("ad.core.report") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
