"""Tells an address what was found, beside the scoring and never in its way."""

from __future__ import annotations

import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Self, final
from urllib.parse import urlsplit

from ad.runtime.errors import SettingError
from ad.runtime.lines import line_of

_WAITING = 1000  # lines
_TRIES = 3
_SECONDS = 5.0  # for an answer
_PAUSE = 0.5  # seconds before the second try; twice that before the third
_AT_THE_END = 30.0  # seconds in which what is left is sent


@final
class Webhook:
    """Posts lines to an address, each as a JSON object, in order.

    What cannot be delivered in three tries is told and let go: the journal has it.

    Args:
        url: ``http`` or ``https``.
        tell: Is called with what went wrong.
        pause: Seconds before a second try.

    Raises:
        SettingError: If it is no such address.
    """

    def __init__(self, url: str, tell: Callable[[str], None], *, pause: float = _PAUSE) -> None:
        try:
            parts = urlsplit(url)
            known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            known = False
        if not known or parts.username is not None:
            msg = (
                "`--webhook` takes an address such as http://localhost:9000/found, without a user "
                f"in it; got `{url}`."
            )
            raise SettingError(msg)
        self.url, self._tell, self._pause = url, tell, pause
        self._lines: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._deliver, name="webhook", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        until = time.monotonic() + _AT_THE_END
        try:
            self._lines.put(None, timeout=_AT_THE_END)
        except queue.Full:
            return
        self._thread.join(max(0.0, until - time.monotonic()))

    def send(self, line: Mapping[str, Any]) -> None:
        """Have a line posted; returns at once."""
        try:
            self._lines.put_nowait(line_of(line))
        except queue.Full:
            self._tell(f"`{self.url}` is too slow: of `{line['path']}` it is not told")

    def _deliver(self) -> None:
        while (content := self._lines.get()) is not None:
            for number in range(_TRIES):
                if number:
                    time.sleep(self._pause * 2 ** (number - 1))
                why = self._post(content)
                if why is None:
                    break
            else:
                self._tell(f"`{self.url}` was not told of a picture ({why}), in {_TRIES} tries")

    def _post(self, content: bytes) -> str | None:
        request = urllib.request.Request(  # noqa: S310 - only http and https
            self.url, data=content, headers={"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS):  # noqa: S310
                return None
        except (OSError, ValueError, urllib.error.URLError) as error:
            return str(error)
        except Exception as error:  # such as an answer that is no HTTP
            return f"{type(error).__name__}: {error}"
