"""A server that runs: a Triton client, exchanged models under load, signals, its command line."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
from browser import CHROMIUM, Browser
from serving import encoded, plain
from tiny_export import calibration, make_export

from ad.runtime.cli import main
from ad.runtime.package import rewrite_config


class Running:
    """`ad-runtime serve` in a process of its own."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "ad.runtime.cli", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.log = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:"), self.log

    def _read(self):
        for line in self.process.stderr:
            self.log.append(json.loads(line))

    def until(self, event, number=1):
        """Wait until an event was logged so often; those of that kind."""
        for _ in range(2000):
            found = [line for line in self.log if line["event"] == event]
            if len(found) >= number:
                return found
            time.sleep(0.01)
        raise AssertionError(self.log)

    def end(self, *signals):
        for number in signals:
            self.process.send_signal(number)
        status = self.process.wait(20)
        self._reader.join(20)
        self.process.stdout.close()
        self.process.stderr.close()
        return status


@contextlib.contextmanager
def running(*arguments):
    server = Running(*arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)


def exchange(export, threshold):
    """Give an export another threshold, as `ad calibrate` does."""
    from dataclasses import replace

    from ad.runtime.package import read_package

    config = read_package(export).config
    rewrite_config(export, replace(config, calibration=calibration(threshold)))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One server for all that leave it as it was."""
    folder = tmp_path_factory.mktemp("served")
    export = folder / "bright"
    make_export(export)
    with running(str(export), "--control") as server:
        server.export = export
        yield server


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_triton_client_talks_to_it(served):
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(served.address.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("bright")
    assert client.is_model_ready("bright", "1")
    assert client.get_server_metadata()["name"] == "ad"
    assert client.get_model_metadata("bright")["inputs"][0]["shape"] == [-1, 32, 32, 3]
    (state,) = client.get_model_repository_index()
    assert (state["name"], state["state"]) == ("bright", "READY")

    pictures = np.stack([plain(51), plain(204), plain(102)])
    expected = np.float32([0.2, 0.8, 0.4])
    for as_bytes in (True, False):
        given = triton.InferInput("pictures", list(pictures.shape), "UINT8")
        given.set_data_from_numpy(pictures, binary_data=as_bytes)
        wanted = [
            triton.InferRequestedOutput(name, binary_data=as_bytes)
            for name in ("score", "anomalous", "map")
        ]
        answer = client.infer("bright", [given], outputs=wanted, request_id="a")
        np.testing.assert_allclose(answer.as_numpy("score"), expected, rtol=1e-6)
        assert answer.as_numpy("anomalous").tolist() == [False, True, False]
        assert answer.as_numpy("map").shape == (3, 32, 32)
        assert answer.get_response()["id"] == "a"

    files = np.array([encoded(plain(51)), encoded(plain(204), "BMP")], dtype=object)
    given = triton.InferInput("file", [2], "BYTES")
    given.set_data_from_numpy(files)
    answer = client.infer("bright", [given], parameters={"threshold": 0.9})
    np.testing.assert_allclose(answer.as_numpy("score"), expected[:2], rtol=1e-6)
    assert answer.as_numpy("anomalous").tolist() == [False, False]

    client.unload_model("bright")
    assert not client.is_model_ready("bright")
    client.load_model("bright")
    with pytest.raises(
        triton.InferenceServerException, match="There is no model 'brigt'.*Did you mean"
    ):
        client.infer("brigt", [given])
    client.close()


def test_exchanged_under_load_no_answer_mixes_two_models_and_none_is_lost(served):
    content = encoded(plain(153))  # 0.6
    stop, answers = threading.Event(), []

    def load():
        with httpx.Client(base_url=served.address) as client:
            while not stop.is_set():
                answer = client.post("/inspect/bright", content=content)
                answers.append((answer.status_code, answer.json()))

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    before = len(served.until("loaded"))
    try:
        for number, threshold in enumerate((0.7, 0.5, 0.7, 0.5)):  # at last as it was
            exchange(served.export, threshold)
            served.process.send_signal(signal.SIGHUP)
            served.until("loaded", before + number + 1)
            at = len(answers)
            while len(answers) < at + 6:
                time.sleep(0.005)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert {status for status, _ in answers} == {200}
    seen = {(told["threshold"], told["anomalous"], told["normalized"]) for _, told in answers}
    by_hand = [(0.5, True, 1 / (1 + np.exp(-1))), (0.7, False, 1 / (1 + np.exp(1)))]
    np.testing.assert_allclose(sorted(seen), by_hand, atol=1e-5)


def test_a_broken_new_one_is_logged_and_counted_and_the_old_one_stays(served):
    graph = served.export / "model.onnx"
    good = graph.read_bytes()
    try:
        graph.write_bytes(good[:-1] + b"!")
        manifest = served.export / "manifest.json"
        manifest.write_bytes(manifest.read_bytes() + b"\n")
        served.process.send_signal(signal.SIGHUP)
        (failed,) = served.until("not loaded")
        assert failed["kept"] is True
        assert "model.onnx" in failed["error"]
        answer = httpx.post(f"{served.address}/inspect/bright", content=encoded(plain(255)))
        assert answer.json()["anomalous"] is True
        text = httpx.get(f"{served.address}/metrics").text
        assert 'ad_reloads_total{model="bright",result="failed"} 1.0' in text
        loads = len(served.until("loaded"))
    finally:
        graph.write_bytes(good)
    served.until("loaded", loads + 1)  # nothing tells of it but the look every other second


def test_sigterm_answers_on_for_a_while_and_ends_with_0(tmp_path):
    make_export(tmp_path / "bright")
    content, stop, lost = encoded(plain(255)), threading.Event(), []

    def load(address):
        with httpx.Client(base_url=address) as client:
            while not stop.is_set():
                try:
                    answer = client.post("/inspect/bright", content=content)
                except httpx.HTTPError as error:
                    lost.append(repr(error))
                    return
                if answer.json().get("anomalous") is not True:
                    lost.append(answer.text)

    with running(str(tmp_path / "bright"), "--drain", "1.5") as server:
        thread = threading.Thread(target=load, args=(server.address,))
        thread.start()
        with httpx.Client(base_url=server.address) as client, httpx.Client() as other:
            assert client.get("/v2/health/ready").status_code == 200
            server.process.send_signal(signal.SIGTERM)
            server.until("draining")
            answer = client.get("/v2/health/ready")
            assert (answer.status_code, answer.headers["connection"]) == (503, "close")
            assert client.get("/v2/health/live").status_code == 200
            assert client.post("/inspect/bright", content=content).json()["anomalous"] is True
            assert other.get(f"{server.address}/v2/health/ready").status_code == 503
            stop.set()
            thread.join(20)
            assert lost == []
            assert server.end() == 0
            with pytest.raises(httpx.ConnectError):
                other.get(f"{server.address}/v2/health/live")
    assert server.log[-1]["event"] == "ended"
    assert {line["event"] for line in server.log} <= {
        *("loaded", "listening", "request", "draining", "ended"),
        "drift",  # of a picture above the threshold, again and again
    }


def test_a_second_signal_ends_at_once(tmp_path):
    make_export(tmp_path / "bright")
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o600)
    options = ("--models", str(tmp_path), "--drain", "1000", "--token-file", str(token))
    with running(*options) as server:
        assert httpx.get(f"{server.address}/metrics").status_code == 401
        header = {"authorization": "Bearer 0123456789abcdef"}
        assert httpx.get(f"{server.address}/metrics", headers=header).status_code == 200
        # A request that never comes to its end.
        host, port = server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"POST /inspect/bright HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n")
            slow.sendall(b"Authorization: Bearer 0123456789abcdef\r\n\r\n1")
            server.process.send_signal(signal.SIGTERM)
            server.until("draining")
            assert server.end(signal.SIGTERM) == 0


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["serve", *map(str, arguments)])
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_what_cannot_be_served_is_told_before_anything_is_loaded(tmp_path, capsys):
    nowhere = tmp_path / "nowhere"
    assert "either exported models or `--models DIR`" in refused(capsys)
    assert "either exported models" in refused(capsys, nowhere, "--models", tmp_path)
    text = refused(capsys, nowhere, "--host", "0.0.0.0")
    assert "others than this machine reach the server. Give `--token-file FILE`" in text
    assert "or `--without-token` if anybody may use it" in text
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    token.chmod(0o640)
    text = refused(capsys, nowhere, "--host", "0.0.0.0", "--token-file", token)
    assert "can be read by others than its owner (permissions 640)" in text
    assert f"hint: chmod 600 {token}" in text
    token.chmod(0o600)
    text = refused(capsys, nowhere, "--token-file", token, "--without-token")
    assert "say opposite things" in text
    for content in ("short", "0123456789 abcdef", "0123456789abcdef\n0123456789abcdef", "é" * 20):
        token.write_text(content)
        assert "must hold one line of 16 to 4096 ASCII" in refused(
            capsys, nowhere, "--token-file", token
        )
    assert "is no regular file" in refused(capsys, nowhere, "--token-file", os.devnull)
    assert "cannot be read (No such file" in refused(capsys, nowhere, "--token-file", nowhere)
    assert "`--queue` must be from 1 to 100,000; got 0" in refused(capsys, nowhere, "--queue", 0)
    assert "`--timeout` must be from" in refused(capsys, nowhere, "--timeout", "nan")
    assert "`--workers` must be from 1 to" in refused(capsys, nowhere, "--workers", 999)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port}` (Address already in use)" in refused(
            capsys, nowhere, "--port", port
        )
    assert "--port 99999` (" in refused(capsys, nowhere, "--port", 99999)
    assert "does not exist: it is no exported model" in refused(capsys, nowhere, "--port", 0)


def test_without_its_extra_it_says_what_to_install(capsys, monkeypatch):
    import importlib.util

    monkeypatch.setattr("ad.runtime.commands.serve.find_spec", lambda name: None)
    text = refused(capsys, "export")
    assert "needs starlette, uvicorn, prometheus_client: in a clone of this project" in text
    assert "ad-runtime[serve]" in text
    assert importlib.util.find_spec("starlette")


AREA = "document.getElementById('area')"


class Address:
    """What the browser opens, as it opens files."""

    def __init__(self, address):
        self.address = address

    def as_uri(self):
        return f"{self.address}/"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_the_page_shows_what_was_found_and_asks_nobody_else(served, tmp_path):
    spot = plain(0, (64, 128))  # so dark that no pixel beside the spot is above the threshold
    spot[8:16, 64:80] = 255
    pictures = [("good.png", encoded(plain(0))), ("bad.png", encoded(spot)), ("x.png", b"no")]
    given = [[name, base64.b64encode(content).decode()] for name, content in pictures]
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(Address(served.address), width=390, height=844)
        browser.run(
            f"inspect({json.dumps(given)}.map(([name, text]) => new File("
            "[Uint8Array.from(atob(text), c => c.charCodeAt(0))], name)))"
        )
        cards = browser.run("[...document.querySelectorAll('.card')].map(one => one.textContent)")
        assert [card.partition(".png")[0] for card in cards] == [
            *("Not inspectedx", "Defective1bad", "Good0good")
        ]
        assert "x.png: The picture begins as no JPEG" in browser.text("#message")
        browser.run("document.querySelectorAll('.card')[1].click()")
        browser.settle()
        assert browser.text("#word") == "Defective"
        shown = browser.run(
            "['heat', 'picture'].map(id => document.getElementById(id).getBoundingClientRect())"
            ".map(box => [box.x, box.y, box.width / box.height])"
        )
        assert shown[0] == shown[1]  # the heat lies on the picture
        assert shown[0][2] == pytest.approx(2)
        (box,) = browser.run(
            "[...document.querySelectorAll('#boxes rect')].map(r => ['x', 'y', 'width', 'height']"
            ".map(name => Number(r.getAttribute(name))))"
        )
        assert box == [64, 8, 16, 8]
        area = browser.run("current.told.regions[0][5]")
        assert 64 < area <= 128
        told = {"": (1, "1 place"), area: (1, "1 place"), area + 1: (0, "0 of 1 place found")}
        for least, (drawn, said) in told.items():
            browser.run(f"{AREA}.value = '{least}'; {AREA}.dispatchEvent(new Event('input'))")
            assert browser.run("document.querySelectorAll('#boxes rect').length") == drawn
            assert said in browser.text("#facts")
        for least in ("0", "1.5"):
            browser.run(f"{AREA}.value = '{least}'; {AREA}.dispatchEvent(new Event('input'))")
            assert "a whole number of pixels from 1" in browser.text("#message")
            assert browser.run("document.querySelectorAll('#boxes rect').length") == 1
        assert browser.run("document.documentElement.scrollWidth") == 390
        own = (f"{served.address}/inspect", f"blob:{served.address}/")
        assert all(url.startswith(own) for url in browser.requests())
        told = [one for one in browser.complaints() if "415" not in json.dumps(one)]
        assert told == []
    finally:
        browser.close()


def test_short_answers_are_sent_at_once():
    """Else they wait 40 ms for the client's word that it has what came before."""
    import asyncio

    from ad.runtime.serve.process import _listening

    async def without_delay(listening: socket.socket) -> int:
        asked = asyncio.get_running_loop().create_future()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            del reader
            connection = writer.get_extra_info("socket")
            asked.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(connected, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname()[:2])
            answer = await asked
            writer.close()
            return answer

    with _listening("127.0.0.1", 0) as listening:
        assert asyncio.run(without_delay(listening))
