"""What a server takes from strangers: how much, of what kind, and from whom."""

from __future__ import annotations

import hmac
import io
import ipaddress
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from PIL import Image, UnidentifiedImageError
from starlette.types import Receive

from ad.runtime.errors import AdError, SettingError

FORMATS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "WEBP": (b"RIFF",),
}
"""Kinds of pictures that are decoded, and how their files begin."""

_SHORTEST_TOKEN = 16  # characters
_LARGEST_TOKEN = 4096  # bytes of its file

# What Pillow raises while it reads headers that were tampered with.
_UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError)


class Refused(AdError):
    """A request that is answered with an error.

    Args:
        status: Of the answer, from 400.
        message: For whoever sent it.
        headers: Of the answer, beside the usual ones.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


class Gone(Exception):  # noqa: N818  nothing is wrong: nobody is there to be told
    """The client does not wait for an answer any more."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a server takes."""

    body: int = 32 * 2**20
    """Bytes of a request."""
    pixels: int = 64_000_000
    """Of a picture."""
    pictures: int = 64
    """Of a request."""
    queue: int = 64
    """Requests at once; one more is refused."""
    timeout: float = 30.0
    """Seconds from a request's arrival to its answer."""
    drain: float = 10.0
    """Seconds for which requests are still answered when the server was told to end."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("queue", 1, 100_000),
            ("timeout", 0.001, 86_400),
            ("drain", 0, 86_400),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                msg = f"`--{name}` must be from {least:g} to {most:,}; got {value:g}."
                raise SettingError(msg)


async def read_body(receive: Receive, headers: Mapping[str, str], most: int) -> bytes:
    """Read a request's body, counting what comes and not what was announced.

    Args:
        receive: Of the ASGI server.
        headers: Of the request; a length beyond the limit is refused before it is sent.
        most: Bytes.

    Raises:
        Refused: If it is larger, or compressed.
        Gone: If the client goes before it has sent all.
    """
    if headers.get("content-encoding", "identity").lower() != "identity":
        msg = (
            f"The body is compressed ({headers['content-encoding'][:40]}), which is not taken: a "
            "small one could unpack to any size. Send it as it is."
        )
        raise Refused(415, msg)
    announced = headers.get("content-length", "")
    chunks, size = [], 0
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > most:
        raise _too_large(most)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise _too_large(most)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _too_large(most: int) -> Refused:
    msg = (
        f"The request has more than {most:,} bytes, the most that is taken. Send fewer pictures "
        "at once, or smaller ones."
    )
    return Refused(413, msg, {"Connection": "close"})  # whatever of it is still to come


def check_picture(content: bytes, name: str, most: int) -> None:
    """Check by its header that a picture's file may be decoded.

    Args:
        content: Of the file.
        name: Of the picture, at the start of a sentence.
        most: Pixels.

    Raises:
        Refused: If it is of another kind, too large or damaged.
    """
    kind = next((kind for kind, starts in FORMATS.items() if content.startswith(starts)), None)
    if kind is None or (kind == "WEBP" and content[8:12] != b"WEBP"):
        what = f"begins as no {', '.join(FORMATS)} file does" if content else "is empty (0 bytes)"
        msg = f"{name} {what}. Send the whole content of a file of one of these kinds."
        raise Refused(415, msg)
    try:
        # Only the decoder of that kind has a look at it.
        with Image.open(io.BytesIO(content), formats=[kind]) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        width = height = most
    except (UnidentifiedImageError, *_UNREADABLE) as error:
        msg = (
            f"{name} begins as a {kind} file and cannot be read: it may be truncated. Send the "
            "whole content of the file."
        )
        raise Refused(422, msg) from error
    if width * height > most:
        msg = (
            f"{name} has more than {most:,} pixels, the most that is decoded, since a small file "
            "can claim any size. Cut it, or scale it down."
        )
        raise Refused(413, msg)


def read_token(path: Path) -> bytes:
    """Read the secret that clients must know.

    Args:
        path: A file with one line, readable by nobody but its owner.

    Raises:
        SettingError: If it is not so.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                msg = f"The token's file `{path}` is no regular file."
                raise SettingError(msg)
            content = file.read(_LARGEST_TOKEN + 1)
    except OSError as error:
        msg = f"The token's file `{path}` cannot be read ({error.strerror})."
        raise SettingError(msg) from error
    if os.name != "nt" and mode & 0o077:
        msg = (
            f"The token's file `{path}` can be read by others than its owner (permissions "
            f"{stat.S_IMODE(mode):o}).\nhint: chmod 600 {path}"
        )
        raise SettingError(msg)
    token = content.strip()
    fits = len(token) >= _SHORTEST_TOKEN and len(content) <= _LARGEST_TOKEN
    if not fits or any(not 33 <= byte <= 126 for byte in token):
        msg = (
            f"The token's file `{path}` must hold one line of {_SHORTEST_TOKEN} to "
            f"{_LARGEST_TOKEN} ASCII characters without spaces.\n"
            f"hint: (umask 077; openssl rand -hex 32 > {path})"
        )
        raise SettingError(msg)
    return token


def check_token(headers: Mapping[str, str], token: bytes | None) -> None:
    """Let those in who know the token, in a time that does not depend on how near they are.

    Raises:
        Refused: If there is a token, and the request does not have it.
    """
    if token is None:
        return
    kind, _, given = headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token)
    if kind.lower() != "bearer" or not right:
        msg = "The server asks for a token: send the header `Authorization: Bearer TOKEN`."
        raise Refused(401, msg, {"WWW-Authenticate": "Bearer"})


def check_origin(headers: Mapping[str, str], *, local: bool) -> None:
    """Refuse what a browser was led to send by the page of another site.

    Args:
        headers: Of the request.
        local: Whether the server is for this machine alone, and asks for no token. It is then not
            answered under other names, which a site can have lead here, too.

    Raises:
        Refused: If it is so.
    """
    host = headers.get("host", "")
    if local and not is_loopback(re.sub(r":\d+$", "", host).strip("[]")):
        msg = (
            f"The server is for this machine alone, under the name `localhost`; it was asked as "
            f"{ascii(host[:80])}. With `--token-file` or `--without-token` it answers to any name."
        )
        raise Refused(403, msg)
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site is not None:  # which a proxy does not change, as it may the host
        elsewhere = site not in ("same-origin", "none")
    else:
        elsewhere = origin is not None and origin.partition("://")[2] != host
    if elsewhere:
        msg = "The request comes from the page of another site, which is not answered."
        raise Refused(403, msg)


def check_exposure(host: str, *, token: bool, without_token: bool) -> None:
    """Check that a server that others can reach asks them for a token, or is told not to.

    Args:
        host: Address that it listens at.
        token: Whether it has one.
        without_token: Whether it was told to do without.

    Raises:
        SettingError: If neither, or both.
    """
    if token and without_token:
        msg = "`--token-file` and `--without-token` say opposite things: leave one out."
        raise SettingError(msg)
    if token or without_token or is_loopback(host):
        return
    msg = (
        f"At `--host {host}` others than this machine reach the server. Give `--token-file FILE`, "
        "whose token they must send, or `--without-token` if anybody may use it."
    )
    raise SettingError(msg)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
