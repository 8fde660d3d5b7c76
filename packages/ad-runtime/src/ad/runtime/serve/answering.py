"""Around every route: who may ask, what is said when it fails, what is counted and logged."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ad.runtime.errors import DataError, PictureError, SettingError, UnknownNameError
from ad.runtime.serve import log
from ad.runtime.serve.answers import to_json
from ad.runtime.serve.limits import Gone, Refused, check_origin, check_token
from ad.runtime.serve.metrics import Metrics

_OPEN = ("/", "/openapi.json", "/v2/health/live", "/v2/health/ready")
"""What everybody may ask: whether the server is well, and the page, which holds nothing."""
_LONGEST_PATH = 200  # characters of it in the log
_NOBODY = 499  # in the log: the client went before there was an answer


@dataclass(slots=True)
class Told:
    """What is logged and counted of a request."""

    began: float = field(default_factory=time.perf_counter)
    """When it arrived, by `time.perf_counter`."""
    model: str = ""
    """That it asks."""
    version: str = ""
    """Of the model."""
    verdicts: dict[str, int] = field(default_factory=dict)
    """How many pictures got which."""
    error: str = ""
    """What failed, for whoever runs the server."""


def told_of(scope: Scope) -> Told:
    """What is known of a request so far."""
    return cast("Told", scope["ad.told"])


class Answering:
    """Middleware: see this module."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        token: bytes | None,
        local: bool,
        draining: Callable[[], bool],
    ) -> None:
        self._app = app
        self._draining = draining
        self._local = local
        self._metrics = metrics
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = scope["ad.told"] = Told()
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"cache-control", b"no-store"),
                    (b"x-content-type-options", b"nosniff"),
                ]
                if self._draining():  # so that nobody sends more by a connection that will end
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            headers = Headers(scope=scope)
            if scope["path"] != "/":  # to which any site may have a link
                check_origin(headers, local=self._local)
            if scope["path"] not in _OPEN:
                check_token(headers, self._token)
            await self._app(scope, receive, counted)
        except Gone:
            status = _NOBODY
        except Exception as error:
            if status:  # half an answer is out: what is left is to break the connection
                raise
            await _said(error, told)(scope, receive, counted)
        finally:
            self._tell(scope, told, status)

    def _tell(self, scope: Scope, told: Told, status: int) -> None:
        self._metrics.requests.labels(told.model, str(status)).inc()
        facts = {
            "method": scope["method"],
            "path": scope["path"][:_LONGEST_PATH],
            "status": status,
            "milliseconds": round(1000 * (time.perf_counter() - told.began), 1),
            "client": (scope.get("client") or ("",))[0],
            "model": told.model,
            "version": told.version,
            "verdicts": told.verdicts,
            "error": told.error,
        }
        log.tell("request", **{name: value for name, value in facts.items() if value})


def _said(error: Exception, told: Told) -> Response:
    """The answer to a request that failed; what it may not know stays here."""
    status, text = 500, "The server failed; its log says how."
    headers = {}
    if isinstance(error, Refused):
        status, text, headers = error.status, str(error), error.headers
    elif isinstance(error, PictureError):
        status, text = 422, str(error)
    elif isinstance(error, (SettingError, UnknownNameError)):
        status, text = 400, str(error)
    elif isinstance(error, DataError):  # a score that is no number
        text = str(error)
    told.error = str(error)
    if status == 500:
        told.error = "".join(traceback.format_exception(error))
    return Response(to_json({"error": text}), status, headers, media_type="application/json")
