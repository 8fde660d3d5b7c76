"""The server's routes, as an ASGI application."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ad.runtime.errors import nearest
from ad.runtime.serve import inspection, metrics
from ad.runtime.serve.answering import Answering, told_of
from ad.runtime.serve.answers import encode_answer, metadata, to_json
from ad.runtime.serve.judging import Judge, Judged, verdict_by
from ad.runtime.serve.limits import Gone, Limits, Refused, read_body
from ad.runtime.serve.page import read_openapi, read_page
from ad.runtime.serve.protocol import (
    HEADER_LENGTH,
    area_of,
    category_of,
    parse_object,
    parse_request,
    threshold_of,
)
from ad.runtime.serve.queue import Work
from ad.runtime.serve.repository import Model, Repository

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]

_QUERY = ("category", "threshold", "min_area", "overlay")
_LARGEST_CONTROL = 65_536  # bytes of a request about models


class Service:
    """What a server has at hand for its requests.

    Args:
        repository: The models, already loaded.
        work: The threads.
        counted: Its metrics.
        limits: How much it takes.
        token: That clients must know; None for everybody.
        local: Whether the server is for this machine alone; see `limits.check_origin`.
        control: Whether clients may load and unload models.
    """

    def __init__(
        self,
        repository: Repository,
        work: Work,
        counted: metrics.Metrics,
        *,
        limits: Limits,
        token: bytes | None = None,
        local: bool = False,
        control: bool = False,
    ) -> None:
        self.repository = repository
        self.work = work
        self.metrics = counted
        self.limits = limits
        self.token = token
        self.local = local
        self.control = control
        self.draining = False
        self._judge = Judge(work, limits, counted)
        counted.queue.set_function(lambda: work.requests)

    def app(
        self, running: Callable[[], AbstractAsyncContextManager[None]] | None = None
    ) -> Starlette:
        """The application.

        Args:
            running: What goes on beside it while it runs.
        """

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            if running is None:
                yield
            else:
                async with running():
                    yield

        answering = Middleware(
            Answering,
            metrics=self.metrics,
            token=self.token,
            local=self.local,
            draining=lambda: self.draining,
        )
        return Starlette(
            routes=self._routes(),
            middleware=[answering],
            exception_handlers={HTTPException: _http_error},
            lifespan=lifespan,
        )

    def _routes(self) -> list[Route]:
        named = "/v2/models/{model}"
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/", _page),
            ("GET", "/openapi.json", _openapi),
            ("GET", "/metrics", self._metrics_text),
            ("GET", "/inspect", self._inspectable),
            ("GET", "/v2", _server),
            ("GET", "/v2/health/live", _live),
            ("GET", "/v2/health/ready", self._ready),
            ("POST", "/v2/repository/index", self._index),
        ]
        for at in (named, named + "/versions/{version}"):
            routes += [
                ("GET", at, self._metadata),
                ("GET", f"{at}/ready", self._model_ready),
                ("POST", f"{at}/infer", self._infer),
            ]
        for at in ("/inspect/{model}", "/inspect/{model}/versions/{version}"):
            routes.append(("POST", at, self._inspect))
        for verb in ("load", "unload"):
            control = partial(self._change, verb)
            routes.append(("POST", f"/v2/repository/models/{{model}}/{verb}", control))
        return [Route(path, handler, methods=[method]) for method, path, handler in routes]

    async def _metrics_text(self, _: Request) -> Response:
        return Response(self.metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _ready(self, _: Request) -> Response:
        ready = self.repository.ready and not self.draining
        return _json({"ready": ready}, 200 if ready else 503)

    async def _metadata(self, request: Request) -> Response:
        model = self._model(request)
        versions = list(self.repository.versions(model.name))
        return _json(metadata(model.name, versions, model.runtime))

    async def _model_ready(self, request: Request) -> Response:
        name, wanted = request.path_params["model"], request.path_params.get("version")
        states = [
            one["state"]
            for one in self.repository.index()
            if one["name"] == name and wanted in (None, one["version"])
        ]
        if not states:
            self._model(request)  # which says what there is
        ready = "READY" in states and not self.draining
        return _json({"name": name, "ready": ready}, 200 if ready else 503)

    async def _index(self, request: Request) -> Response:
        asked = await self._small(request)
        if set(asked) - {"ready"} or not isinstance(asked.get("ready", False), bool):
            msg = 'The body must be empty or {"ready": true}, for those that are.'
            raise Refused(400, msg)
        only_ready = asked.get("ready", False)
        index = self.repository.index()
        return _json([one for one in index if not only_ready or one["state"] == "READY"])

    async def _change(self, verb: str, request: Request) -> Response:
        if not self.control:
            msg = (
                "Models are not loaded or unloaded by request: the server runs without `--control`."
            )
            raise Refused(403, msg)
        asked = await self._small(request)
        parameters = asked.get("parameters", {})
        known = {"load": set[str](), "unload": {"unload_dependents"}}[verb]
        if (
            set(asked) - {"parameters"}
            or not isinstance(parameters, dict)
            or set(parameters) - known
        ):
            msg = f"A request to {verb} a model has no parameters; its files are those on the disk."
            raise Refused(400, msg)
        name = request.path_params["model"]
        change = self.repository.load if verb == "load" else self.repository.unload
        await asyncio.to_thread(change, name)
        return Response(status_code=200)

    async def _infer(self, request: Request) -> Response:
        model = self._model(request)
        began = told_of(request.scope).began
        with self.work.place():
            body = await self._body(request, began)
            return await self._in_time(request, began, self._inferred(request, model, body))

    async def _inferred(self, request: Request, model: Model, body: bytes) -> Response:
        runtime = model.runtime
        header = request.headers.get(HEADER_LENGTH)
        asked = await self.work.in_thread(
            partial(parse_request, body, header, runtime, self.limits)
        )
        judged = await self._judge.judge(
            model, asked.pictures, category=asked.category, threshold=asked.threshold
        )
        _note(request, judged)
        names = {"model_name": model.name, "model_version": model.version}
        if asked.id is not None:
            names["id"] = asked.id
        findings = [one.finding for one in judged]
        made_by = verdict_by(runtime, asked.category, asked.threshold)
        text, tensors = await self._encode(
            model, partial(encode_answer, names, findings, asked.outputs, made_by)
        )
        if not tensors:
            return Response(text, media_type="application/json")
        headers = {HEADER_LENGTH: str(len(text))}
        return Response(text + tensors, media_type="application/octet-stream", headers=headers)

    async def _inspectable(self, _: Request) -> Response:
        told = []
        for name in self.repository.names():
            model = self.repository.get(name)
            config = model.runtime.config
            told.append(
                {
                    "name": name,
                    "version": model.version,
                    "versions": list(self.repository.versions(name)),
                    "engine": model.runtime.engine.described,
                    "threshold": config.calibration.threshold if config.calibration else None,
                    "categories": list(config.categories),
                    "localises": model.runtime.localises,
                    "drift": self.metrics.drifts.of(model),
                }
            )
        return _json({"models": told})

    async def _inspect(self, request: Request) -> Response:
        model = self._model(request)
        query = _query(request)
        overlay = query.get("overlay")
        if overlay not in (None, *inspection.OVERLAYS):
            msg = f"`overlay` must be {' or '.join(inspection.OVERLAYS)}; got {overlay[:40]!a}."
            raise Refused(400, msg)
        if overlay == "png" and not model.runtime.localises:
            msg = f"`{model.name}` judges pictures as a whole and has no map to lay over them."
            raise Refused(400, msg)
        began = told_of(request.scope).began
        with self.work.place():
            body = await self._body(request, began)
            return await self._in_time(request, began, self._inspected(request, model, query, body))

    async def _inspected(
        self, request: Request, model: Model, query: Mapping[str, str], body: bytes
    ) -> Response:
        runtime, framing = model.runtime, model.runtime.config.framing
        began = told_of(request.scope).began
        content = inspection.picture_in(body, request.headers.get("content-type", ""))
        category = category_of(query.get("category"))
        threshold = threshold_of(query.get("threshold"))
        made_by = verdict_by(runtime, category, threshold)
        least = runtime.least_area(area_of(query.get("min_area")), category, threshold)
        (judged,) = await self._judge.judge(
            model, [content], category=category, threshold=threshold, min_area=least
        )
        _note(request, [judged])
        finding, size = judged.finding, judged.size
        if query.get("overlay") == "png":
            sheet = partial(
                inspection.overlay_png, finding, content, runtime, made_by, min_area=least
            )
            return Response(await self._encode(model, sheet), media_type="image/png")

        def encoded() -> dict[str, Any]:
            told = inspection.told(finding, made_by)
            if query.get("overlay") == "inline" and finding.map is not None:
                told["heat"] = inspection.heat_png(finding, size, framing, made_by)
            if query.get("overlay") == "inline":
                told["size"] = [size.width, size.height]
            return told

        told = await self._encode(model, encoded)
        milliseconds = round(1000 * (time.perf_counter() - began), 1)
        told |= {"model": model.name, "version": model.version, "milliseconds": milliseconds}
        return _json(told)

    def _model(self, request: Request) -> Model:
        """The model that a request names; it keeps to it, whatever is loaded in the meantime."""
        given = request.path_params
        model = self.repository.get(given["model"], given.get("version"))
        told = told_of(request.scope)
        told.model, told.version = model.name, model.version
        return model

    async def _encode(self, model: Model, function: Callable[[], T]) -> T:
        def timed() -> T:
            began = time.perf_counter()
            value = function()
            self.metrics.took(model.name, "encode", time.perf_counter() - began)
            return value

        return await self.work.in_thread(timed)

    async def _body(self, request: Request, began: float, most: int | None = None) -> bytes:
        most = self.limits.body if most is None else most
        try:
            async with asyncio.timeout(self._left(began)):
                return await read_body(request.receive, request.headers, most)
        except TimeoutError:
            msg = f"The request did not arrive within {self.limits.timeout:g} s."
            raise Refused(408, msg, {"Connection": "close"}) from None

    async def _small(self, request: Request) -> dict[str, Any]:
        body = await self._body(request, told_of(request.scope).began, _LARGEST_CONTROL)
        return parse_object(body) if body.strip() else {}

    async def _in_time(
        self, request: Request, began: float, answer: Coroutine[Any, Any, Response]
    ) -> Response:
        """Work on an answer as long as somebody waits for it, and at most for so long."""
        task = asyncio.create_task(answer)
        gone = asyncio.create_task(_gone(request))
        try:
            both = {task, gone}
            await asyncio.wait(both, timeout=self._left(began), return_when="FIRST_COMPLETED")
            if task.done():
                return task.result()
            if gone.done():
                raise Gone
            msg = f"The answer was not there within {self.limits.timeout:g} s; it is not made now."
            raise Refused(504, msg)
        finally:
            for one in (task, gone):
                one.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    def _left(self, began: float) -> float:
        return max(0.0, self.limits.timeout - (time.perf_counter() - began))


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _note(request: Request, judged: list[Judged]) -> None:
    verdicts = Counter(one.finding.verdict for one in judged)
    told_of(request.scope).verdicts = dict(verdicts)


def _query(request: Request) -> dict[str, str]:
    pairs = request.query_params.multi_items()
    for name, _ in pairs:
        if name not in _QUERY:
            msg = (
                f"The address cannot have `{name[:40]}`; it can have {', '.join(_QUERY)}."
                f"{nearest(name, _QUERY)}"
            )
            raise Refused(400, msg)
    query = dict(pairs)
    if len(query) != len(pairs):
        msg = "The address says the same thing twice."
        raise Refused(400, msg)
    return query


async def _page(_: Request) -> Response:
    text, headers = read_page()
    return Response(text, headers=headers)


async def _openapi(_: Request) -> Response:
    return Response(read_openapi(), media_type="application/json")


async def _server(_: Request) -> Response:
    extensions = ["binary_tensor_data", "model_repository"]
    return _json({"name": "ad", "version": version("ad-runtime"), "extensions": extensions})


async def _live(_: Request) -> Response:
    return _json({"live": True})


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {
        404: "There is no such address here: see /openapi.json for those there are.",
        405: "The address does not take this method: see /openapi.json.",
    }
    text = words.get(error.status_code, error.detail)
    return _json({"error": text}, error.status_code, error.headers)


def _json(values: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(values), status, headers, media_type="application/json")
