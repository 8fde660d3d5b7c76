"""The server under load against `Runtime` in a plain loop, on this machine alone.

python benchmarks/serve.py [EXPORT] [--requests N] [--seconds S] [--flat N] [--reloads N]
    [--note TEXT] [--output FILE]

Requests arrive by the clock, whatever became of those before (open loop), and their time counts
from when they were to be sent: a server that lags cannot hide it. Without an exported model there
is a stand-in, convolutions of about the cost of a ResNet-18. Every phase is bounded in requests and
in seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from record import record

from ad.runtime import Runtime, load

CONNECTIONS = 256  # at most, of the client
QUEUE = 16  # of the server, so that an overload is one within a few seconds


class Client:
    """HTTP/1.1 by hand: what it costs is not counted as the server's."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.slots = asyncio.Semaphore(CONNECTIONS)

    async def post(self, path: str, body: bytes, headers: str = "") -> int:
        """Send a request; its status, 0 if the connection broke."""
        async with self.slots:
            try:
                pair = await self._connection()
                reader, writer = pair
                head = f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\n{headers}"
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(answer.partition("content-length: ")[2].partition("\r\n")[0])
                await reader.readexactly(length)
            except (OSError, asyncio.IncompleteReadError):
                return 0
            self.free.append(pair)
            return int(answer.split()[1])

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One that is free, unless the server closed it for being idle, or a new one."""
        while self.free:
            reader, writer = self.free.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self.host, self.port)

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self.free:
            writer.close()


Send = Callable[[Client], Awaitable[int]]
Times = dict[int, list[float]]
"""Milliseconds by status."""


async def open_loop(client: Client, send: Send, rate: float, count: int, seconds: float) -> Times:
    """Send so many a second, at most for so long; how long each took."""
    began = time.perf_counter()
    times: Times = {}

    async def one(at: float) -> None:
        await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
        status = await send(client)
        times.setdefault(status, []).append(1000 * (time.perf_counter() - began - at))

    number = max(1, min(count, int(rate * seconds)))
    await asyncio.gather(*(one(index / rate) for index in range(number)))
    return times


async def closed_loop(
    client: Client, send: Send, width: int, count: int, seconds: float
) -> tuple[Counter[int], float]:
    """Keep so many requests going; their statuses and how many a second were answered."""
    left = iter(range(count))
    statuses: Counter[int] = Counter()
    began = time.perf_counter()

    async def worker() -> None:
        for _ in left:
            if time.perf_counter() - began > seconds:
                return
            statuses[await send(client)] += 1

    await asyncio.gather(*(worker() for _ in range(width)))
    return statuses, statuses[200] / (time.perf_counter() - began)


def plain_loop(work: Callable[[], object], count: int, seconds: float) -> float:
    """How often a second something is done, one after another."""
    work()
    began = time.perf_counter()
    done = 0
    while done < count and time.perf_counter() - began < seconds:
        work()
        done += 1
    return done / (time.perf_counter() - began)


@contextmanager
def running(export: Path) -> Iterator[tuple[int, str, int]]:
    """A server of its own: its process, host and port."""
    command = [sys.executable, "-m", "ad.runtime.cli", "serve", str(export)]
    command += ["--port", "0", "--drain", "0", "--queue", str(QUEUE)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        host, _, port = process.stdout.readline().decode().strip()[7:].rpartition(":")
        yield process.pid, host, int(port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def resident(process: int) -> float:
    """Memory of a process in MiB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError


def stand_in(folder: Path) -> Path:
    """An exported model of random convolutions that gives a score and a map."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "packages/ad-runtime/tests/shared"))
    from onnx import TensorProto, helper
    from tiny_export import constant, graph_model, make_export

    from ad.runtime.framing import Framing, Size

    rng = np.random.default_rng(0)
    side, kind = 256, TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["pictures"], ["float"], to=kind),
        helper.make_node("Transpose", ["float"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    constants, channels = [], 3
    widths = [(64, 4), (64, 1), (64, 1), (64, 1), (128, 2), (128, 1), (128, 1), (256, 2), (256, 1)]
    for number, (width, stride) in enumerate(widths):
        weights = rng.normal(0, (2 / (9 * channels)) ** 0.5, (width, channels, 3, 3))
        constants.append(constant(f"w{number}", kind, weights.astype(np.float32)))
        nodes.append(
            helper.make_node(
                "Conv",
                [f"x{number}", f"w{number}"],
                [f"y{number}"],
                strides=[stride, stride],
                pads=[1] * 4,
            )
        )
        nodes.append(helper.make_node("Relu", [f"y{number}"], [f"x{number + 1}"]))
        channels = width
    constants += [
        constant("one", TensorProto.INT64, [1]),
        constant("pixels", TensorProto.INT64, [1, 2]),
        constant("scales", kind, np.float32([1, 1, 16, 16])),
    ]
    nodes += [
        helper.make_node("ReduceMean", [f"x{len(widths)}", "one"], ["small"], keepdims=1),
        helper.make_node("Resize", ["small", "", "scales"], ["large"], mode="linear"),
        helper.make_node("Squeeze", ["large", "one"], ["map"]),
        helper.make_node("ReduceMax", ["map", "pixels"], ["score"], keepdims=0),
    ]
    given = [("pictures", TensorProto.UINT8, ["batch", side, side, 3])]
    outputs = [("score", kind, ["batch"]), ("map", kind, ["batch", side, side])]
    model = graph_model(nodes, given, outputs, constants)
    make_export(folder / "stand-in", model=model, framing=Framing(size=Size(side, side)))
    return folder / "stand-in"


def requests(runtime: Runtime) -> dict[str, tuple[Send, Callable[[], object]]]:
    """How one picture is sent, and what a plain loop does for it."""
    name, size = runtime.config.name, runtime.config.framing.size
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((1024, 768), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    ready = rng.integers(0, 256, (1, *size, 3), dtype=np.uint8)
    given: list[tuple[dict[str, Any], bytes]] = [
        ({"name": "pictures", "datatype": "UINT8", "shape": list(ready.shape)}, ready.tobytes()),
        (
            {"name": "file", "datatype": "BYTES", "shape": [1]},
            len(file.getvalue()).to_bytes(4, "little") + file.getvalue(),
        ),
    ]
    plain: list[Callable[[], object]] = [
        lambda: runtime.score(ready),
        lambda: list(runtime.stream([file.getvalue()])),
    ]
    sends: dict[str, tuple[Send, Callable[[], object]]] = {}
    for (tensor, tail), work in zip(given, plain, strict=True):
        tensor["parameters"] = {"binary_data_size": len(tail)}
        text = json.dumps({"inputs": [tensor]}).encode()
        header = f"Inference-Header-Content-Length: {len(text)}\r\n"

        def send(client: Client, body: bytes = text + tail, header: str = header) -> Awaitable[int]:
            return client.post(f"/v2/models/{name}/infer", body, header)

        sends[tensor["name"]] = send, work
    return sends


def summary(times: Times) -> dict[str, Any]:
    """Counts and times of one phase."""
    good = np.array(times.get(200, [np.nan]))
    busy = np.array(times.get(503, [np.nan]))
    return {
        "answered": len(times.get(200, [])),
        "busy": len(times.get(503, [])),
        "lost": sum(len(some) for status, some in times.items() if status not in (200, 503)),
        **{f"p{q}_ms": round(float(np.percentile(good, q)), 1) for q in (50, 95, 99)},
        "busy_p99_ms": round(float(np.percentile(busy, 99)), 1) if 503 in times else None,
    }


async def phases(options: argparse.Namespace, export: Path, runtime: Runtime) -> list[Any]:
    """All measurements of one server."""
    rows: list[dict[str, Any]] = []
    count, seconds = options.requests, options.seconds

    def tell(row: dict[str, Any]) -> None:
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)

    sends = requests(runtime)
    base = {name: plain_loop(work, count, seconds) for name, (_, work) in sends.items()}
    with running(export) as (process, host, port):
        client = Client(host, port)
        for name, (send, _) in sends.items():
            await closed_loop(client, send, 2, 10, seconds)
            statuses, rate = await closed_loop(client, send, 4, count, seconds)
            again = plain_loop(sends[name][1], count, seconds)  # other work comes and goes
            plain = max(base[name], again)
            tell(
                {
                    "case": f"{name}, 4 at a time",
                    "per_second": round(rate, 1),
                    "plain_loop_per_second": round(plain, 1),
                    "ratio": round(rate / plain, 3),
                    "lost": sum(statuses.values()) - statuses[200],
                }
            )
            for share in (0.25, 0.5, 0.75):
                times = await open_loop(client, send, share * rate, count, seconds)
                told = {"per_second": round(share * rate, 1), **summary(times)}
                tell({"case": f"{name}, {share:.0%} of that", **told})
            times = await open_loop(client, send, 5 * rate, 5 * count, seconds)
            tell(
                {
                    "case": f"{name}, 5 times that",
                    "per_second": round(5 * rate, 1),
                    **summary(times),
                }
            )
        send = sends["pictures"][0]
        before = resident(process)
        done, _ = await closed_loop(client, send, 4, options.flat, 10 * seconds)
        after = resident(process)
        tell(
            {
                "case": f"memory over {sum(done.values()):,} requests",
                "before_mib": round(before, 1),
                "after_mib": round(after, 1),
                "lost": sum(done.values()) - done[200],
            }
        )
        manifest = export / "manifest.json"

        async def reload() -> None:
            for _ in range(options.reloads):
                os.utime(manifest)
                os.kill(process, signal.SIGHUP)
                await asyncio.sleep(min(0.2, 3 * seconds / options.reloads))

        reloading = asyncio.create_task(reload())
        done = Counter()
        while not reloading.done():
            some, _ = await closed_loop(client, send, 4, 20, seconds)
            done += some
        tell(
            {
                "case": f"{options.reloads} reloads asked for",
                "answered": done[200],
                "lost": sum(done.values()) - done[200],
            }
        )
        client.close()
    return rows


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("export", nargs="?", type=Path)
    parser.add_argument("--requests", type=int, default=500, help="of a phase, at most")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a phase, at most")
    parser.add_argument("--flat", type=int, default=10_000, help="requests to look at memory over")
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--note", help="what else to know of the machine")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        export = options.export or stand_in(Path(folder))
        runtime = load(export)
        rows = asyncio.run(phases(options, export, runtime))
    if options.note:
        rows.append({"note": options.note})
    if options.output:
        record("serve", rows, options.output)


if __name__ == "__main__":
    main()
