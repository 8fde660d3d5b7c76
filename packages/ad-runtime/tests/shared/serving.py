"""A server inside the test, with models that do what the test wants of them."""

import asyncio
import io
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from tiny_export import brightness, make_config

from ad.runtime.package import Package
from ad.runtime.runtime import Runtime
from ad.runtime.serve.app import Service
from ad.runtime.serve.limits import Limits
from ad.runtime.serve.metrics import Metrics
from ad.runtime.serve.process import Events
from ad.runtime.serve.queue import Work
from ad.runtime.serve.repository import Repository


class FakeEngine:
    """Gives what a function gives."""

    name, described = "onnxruntime", "onnxruntime 0 fp32 cpu"

    def __init__(self, run, device):
        self.run, self.device = run, device


def bright(batch):
    """The scores and maps of `tiny_export.bright_model`."""
    scores, maps = brightness(batch)
    return scores.astype(np.float32), maps.astype(np.float32)


def runtime_of(run=bright, *, device="cpu", **changes):
    """A runtime whose engine is a function of the batch; ``changes`` are of the configuration."""
    package = Package(path=Path("fake"), config=make_config(**changes), sha256={}, parity=None)
    return Runtime(package, FakeEngine(run, device))


class Served:
    """A server that is asked in this process.

    Args:
        models: Runtimes by name, or functions that give one each time it is loaded.
        options: Of `Service`, and ``limits`` of `Limits`.
    """

    def __init__(self, models=None, *, cores=2, workers=1, limits=None, **options):
        self.models = models if models is not None else {"bright": runtime_of()}
        self.metrics = Metrics()
        self.limits = Limits(**(limits or {}))
        paths = [Path(name) for name in self.models]
        self.repository = Repository(paths, None, self._load, Events(self.metrics))
        self.repository.start()
        self.work = Work(cores=cores, workers=workers, most=self.limits.queue)
        service = Service(self.repository, self.work, self.metrics, limits=self.limits, **options)
        self.service = service
        self.app = service.app()

    def _load(self, path):
        model = self.models[path.name]
        return model() if callable(model) else model

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.work.close()

    def client(self):
        transport = httpx.ASGITransport(app=self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://server")

    def ask(self, method, path, **sent):
        async def asked():
            async with self.client() as client:
                return await client.request(method, path, **sent)

        return asyncio.run(asked())

    def get(self, path, **sent):
        return self.ask("GET", path, **sent)

    def post(self, path, **sent):
        return self.ask("POST", path, **sent)


def encoded(array, kind="PNG"):
    """The bytes of a picture's file."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def plain(level, size=(32, 32)):
    """A picture of one grey."""
    return np.full((*size, 3), level, np.uint8)
