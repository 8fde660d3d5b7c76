"""The page for people, and the rules that a browser keeps it to."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files


@cache
def read_page() -> tuple[bytes, dict[str, str]]:
    """The page and its headers: it runs its own script, asks this server, and loads nothing."""
    text = files("ad.runtime.serve").joinpath("page.html").read_text("utf-8")
    hashes = {
        tag: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
            for part in re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", text, re.DOTALL)
        )
        for tag in ("style", "script")
    }
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; "
        "img-src data: blob:; media-src blob: mediastream:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
    }
    return text.encode(), headers


@cache
def read_openapi() -> bytes:
    """The description of the routes, for programs."""
    return files("ad.runtime.serve").joinpath("openapi.json").read_bytes()
