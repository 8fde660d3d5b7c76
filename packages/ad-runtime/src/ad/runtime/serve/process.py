"""The process of a server: its models, its threads, its socket, and how it comes to an end."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from ad.runtime.console import put
from ad.runtime.errors import SettingError
from ad.runtime.runtime import load, usable_threads
from ad.runtime.serve import log
from ad.runtime.serve.app import Service
from ad.runtime.serve.limits import Limits, check_exposure, read_token
from ad.runtime.serve.metrics import Metrics
from ad.runtime.serve.queue import Work, shared_out
from ad.runtime.serve.repository import Model, Repository

SECONDS_BETWEEN_LOOKS = 2.0
"""At the manifests, for models that were exchanged."""

KEEP_ALIVE = 75
"""Seconds until an idle connection is closed: longer than proxies keep theirs, usually 60, which
would else send requests by connections that are just being closed; and lines have pauses."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to serve: see `ad-runtime serve --help`."""

    exports: Sequence[Path] = ()
    models: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    without_token: bool = False
    control: bool = False
    engine: str = "auto"
    device: str = "cpu"
    workers: int = 1
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)


def serve(options: Options) -> None:
    """Serve exported models until the process is told to end.

    The address is printed to stdout once requests are answered; the log goes to stderr.

    Raises:
        AdError: If a model cannot be loaded, or the server cannot be as it was asked for.
    """
    if bool(options.exports) == (options.models is not None):
        msg = "Give either exported models or `--models DIR`, the folder that they are in."
        raise SettingError(msg)
    check_exposure(
        options.host, token=options.token_file is not None, without_token=options.without_token
    )
    token = None if options.token_file is None else read_token(options.token_file)
    with _listening(options.host, options.port) as listening, _logging():
        local = token is None and not options.without_token
        service, work = _service(options, token, local=local)
        try:
            Server(service, listening).run_to_the_end()
        finally:
            work.close()


def application(options: Options) -> Starlette:
    """The server's application, for others to run, who say by themselves who reaches it.

    Models are not exchanged while it runs.

    Args:
        options: Of these, address and token count for nothing.

    Raises:
        AdError: If a model cannot be loaded.
    """
    return _service(options, None, local=False)[0].app()


def _service(options: Options, token: bytes | None, *, local: bool) -> tuple[Service, Work]:
    cores = usable_threads()
    threads = shared_out(cores, options.workers, options.threads)
    metrics = Metrics()
    load_one = partial(load, engine=options.engine, device=options.device, threads=threads)
    repository = Repository(options.exports, options.models, load_one, Events(metrics))
    repository.start()
    work = Work(cores=cores, workers=options.workers, most=options.limits.queue)
    service = Service(
        repository,
        work,
        metrics,
        limits=options.limits,
        token=token,
        local=local,
        control=options.control,
    )
    return service, work


class Events:
    """Logs and counts what becomes of models."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def loaded(self, model: Model, before: Model | None) -> None:
        """See `repository.Listener`."""
        if before is not None:
            self._forget(before)
        self._metrics.info.labels(*_facts(model).values()).set(1)
        self._metrics.drifts.begin(model)
        self._metrics.reloads.labels(model.name, "loaded").inc()
        log.tell("loaded", **_facts(model))

    def failed(self, name: str, path: Path, reason: str, *, kept: bool) -> None:
        """See `repository.Listener`."""
        self._metrics.reloads.labels(name, "failed").inc()
        log.tell("not loaded", model=name, path=str(path), error=reason, kept=kept)

    def unloaded(self, model: Model) -> None:
        """See `repository.Listener`."""
        self._forget(model)
        self._metrics.reloads.labels(model.name, "unloaded").inc()
        log.tell("unloaded", **_facts(model))

    def _forget(self, model: Model) -> None:
        with suppress(KeyError):
            self._metrics.info.remove(*_facts(model).values())
        self._metrics.drifts.end(model)


def _facts(model: Model) -> dict[str, str]:
    package = model.runtime.package
    return {
        "model": model.name,
        "version": model.version,
        "engine": model.runtime.engine.described,
        "sha256": package.sha256.get(package.model.name, ""),
    }


class Server(uvicorn.Server):
    """Uvicorn that ends in two steps, and looks for new models meanwhile.

    On SIGTERM it says that it is not ready, goes on for the limit's `drain` so that whoever sends
    it requests can see that, then takes no new connections and ends when all requests have their
    answer. On Ctrl-C it leaves the first step out. At the second signal it ends at once.
    """

    def __init__(self, service: Service, listening: socket.socket) -> None:
        self._service = service
        self._listening = listening
        self._look = asyncio.Event()
        self._ending: asyncio.TimerHandle | None = None
        limits = service.limits
        config = uvicorn.Config(
            service.app(self._beside),
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(limits.timeout)),
        )
        super().__init__(config)

    def run_to_the_end(self) -> None:
        """Serve; returns when it was told to end."""
        self.run(sockets=[self._listening])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say where."""
        await super().startup(sockets)
        if self.started:
            host, port = self._listening.getsockname()[:2]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            log.tell("listening", address=address, models=self._service.repository.names())
            put(address)
            sys.stdout.flush()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals that end a server, and the one that has it look for new models."""
        loop = asyncio.get_running_loop()
        taken = {signal.SIGINT: self.handle_exit, signal.SIGTERM: self.handle_exit}
        if os.name == "nt":  # where loops have no signals
            before = {number: signal.signal(number, does) for number, does in taken.items()}
            yield
            for number, did in before.items():
                signal.signal(number, did)
            return
        for number, does in taken.items():
            loop.add_signal_handler(number, does, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._look.set)
        yield
        for number in (*taken, signal.SIGHUP):
            loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, or end at once if it had begun."""
        del frame
        if self._service.draining:
            log.tell("ending at once")
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        seconds = self._service.limits.drain if sig == signal.SIGTERM else 0
        log.tell("draining", seconds=seconds)
        if seconds:
            loop = asyncio.get_running_loop()
            self._ending = loop.call_later(seconds, partial(setattr, self, "should_exit", True))
        else:
            self.should_exit = True

    @asynccontextmanager
    async def _beside(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._keep_looking())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            log.tell("ended")

    async def _keep_looking(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SECONDS_BETWEEN_LOOKS):
                    await self._look.wait()
            self._look.clear()
            try:
                await asyncio.to_thread(self._service.repository.look)
            except Exception as error:  # noqa: BLE001  a look that fails is no reason to look no more
                log.tell("look failed", error=f"{type(error).__name__}: {error}")


def _listening(host: str, port: int) -> socket.socket:
    """A socket that is bound before anything is loaded: an address in use is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if not 0 <= port <= 65535:  # which Python would leave an open socket for
            raise OSError(errno.EINVAL, "")
        made = socket.create_server((host, port), family=family, backlog=2048)
        # It is made without a protocol, and of such connections asyncio does not know that they are
        # TCP: short answers then wait 40 ms to be sent together with more (Nagle's algorithm).
        return socket.socket(family, made.type, socket.IPPROTO_TCP, fileno=made.detach())
    except OSError as error:
        number = error.errno or 0  # below 0 of names that are not found
        why = os.strerror(number) if number > 0 else error.strerror
        msg = (
            f"The server cannot listen at `--host {host} --port {port}` ({why}). Give an address "
            "of this machine and a port from 1 to 65535 that is free, or 0 for any."
        )
        raise SettingError(msg) from error


@contextmanager
def _logging() -> Iterator[None]:
    """Have warnings, and what libraries complain of, in the log."""
    handler = log.Handler(logging.WARNING)
    logger = logging.getLogger()
    logger.addHandler(handler)
    before, warnings.showwarning = warnings.showwarning, log.tell_warning
    try:
        yield
    finally:
        warnings.showwarning = before
        logger.removeHandler(handler)
