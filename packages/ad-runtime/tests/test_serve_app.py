"""The server's routes: answers, limits, who may ask, and what is counted and logged."""

import asyncio
import base64
import hashlib
import io
import json
import re
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image
from serving import FakeEngine, Served, bright, encoded, plain, runtime_of

from ad.runtime.framing import Crop, Framing, Size

INSPECT = "/inspect/bright"


@pytest.fixture(scope="module")
def served():
    with Served() as served:
        yield served


def spotted(size=(64, 128), at=(slice(8, 16), slice(64, 80)), level=204):
    picture = plain(51, size)
    picture[at] = level
    return picture


def test_the_server_says_what_it_is_and_has(served):
    assert served.get("/v2").json() == {
        "name": "ad",
        "version": served.get("/v2").json()["version"],
        "extensions": ["binary_tensor_data", "model_repository"],
    }
    for path, key in (("live", "live"), ("ready", "ready")):
        answer = served.get(f"/v2/health/{path}")
        assert (answer.status_code, answer.json()) == (200, {key: True})
    told = {
        "name": "bright",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "pictures", "datatype": "UINT8", "shape": [-1, 32, 32, 3]},
            {"name": "file", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "score", "datatype": "FP32", "shape": [-1]},
            {"name": "normalized", "datatype": "FP32", "shape": [-1]},
            {"name": "anomalous", "datatype": "BOOL", "shape": [-1]},
            {"name": "map", "datatype": "FP32", "shape": [-1, 32, 32]},
            {"name": "mask", "datatype": "UINT8", "shape": [-1, 32, 32]},
        ],
    }
    for version in ("", "/versions/1"):
        assert served.get(f"/v2/models/bright{version}").json() == told
        answer = served.get(f"/v2/models/bright{version}/ready")
        assert (answer.status_code, answer.json()) == (200, {"name": "bright", "ready": True})
    (state,) = served.post("/v2/repository/index").json()
    assert state == {"name": "bright", "version": "1", "state": "READY", "reason": ""}
    (model,) = served.get("/inspect").json()["models"]
    assert (model["name"], model["threshold"], model["localises"]) == ("bright", 0.5, True)


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v2/models/brigt", 404, "served are `bright`. Did you mean `bright`?"),
        ("GET", "/v2/models/bright/versions/2", 404, "no version '2'; served are 1"),
        ("GET", "/v2/models/nothing/ready", 404, "no model 'nothing'"),
        ("GET", "/v3", 404, "no such address"),
        ("GET", "/v2/models/bright/infer", 405, "does not take this method"),
        ("POST", "/v2/repository/models/bright/unload", 403, "without `--control`"),
        ("POST", f"{INSPECT}?treshold=1", 400, "Did you mean `threshold`"),
        ("POST", f"{INSPECT}?threshold=nan", 400, "must be a finite number"),
        ("POST", f"{INSPECT}?threshold=1&threshold=2", 400, "the same thing twice"),
        (
            "POST",
            f"{INSPECT}?min_area=0",
            400,
            "`min_area` must be a whole number of pixels from 1",
        ),
        ("POST", f"{INSPECT}?min_area=1.5", 400, "`min_area` must be a whole number of pixels"),
        ("POST", f"{INSPECT}?min_area=9999999999", 400, "`min_area` must be a whole number"),
        ("POST", f"{INSPECT}?overlay=gif", 400, "must be png or inline; got 'gif'"),
        ("POST", f"{INSPECT}?category=none", 400, "was not trained on a category `none`"),
        ("POST", f"{INSPECT}/versions/9", 404, "no version '9'"),
    ],
)
def test_what_is_not_there_or_not_known_is_told(served, method, path, status, words):
    answer = served.ask(method, path, content=encoded(plain(1)) if method == "POST" else None)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_a_picture_as_the_body_or_as_a_form(served):
    content = encoded(spotted(), "PNG")
    told = served.post(INSPECT, content=content).json()
    assert told.pop("milliseconds") > 0
    assert told == {
        "score": pytest.approx(0.8),
        "normalized": pytest.approx(1 / (1 + np.exp(-3))),
        "anomalous": True,
        "threshold": 0.5,
        "regions": [[64, 8, 80, 16, pytest.approx(0.8), 16 * 8 - 4]],  # but the four corners
        "num_regions": 1,
        "model": "bright",
        "version": "1",
    }
    form = served.post(INSPECT, files={"file": ("a.png", content, "image/png")}).json()
    assert form["regions"] == told["regions"]
    for area, count in ((124, 1), (125, 0)):
        large = served.post(f"{INSPECT}?min_area={area}", content=content).json()
        assert large["num_regions"] == len(large["regions"]) == count
    strict = served.post(f"{INSPECT}?threshold=0.9&category=toy", content=content).json()
    assert (strict["anomalous"], strict["threshold"]) == (False, 0.9)


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        (
            {"files": {"a": ("a.png", b"1"), "b": ("b.png", b"2")}},
            400,
            "one part, a picture's file",
        ),
        ({"files": {"a": ("a.png", b"1")}, "data": {"category": "x"}}, 400, "?category=NAME"),
        ({"files": {"a": (None, b"1")}}, 400, "give it a `filename`"),
        (
            {"content": b"--x--", "headers": {"content-type": "multipart/mixed; boundary=x"}},
            *(415, "or a form (multipart/form-data)"),
        ),
        (
            {"content": b"no", "headers": {"content-type": "multipart/form-data; boundary=x"}},
            *(400, "one part, a picture's file"),
        ),
    ],
)
def test_a_form_with_anything_else_is_refused(served, form, status, words):
    answer = served.post(INSPECT, **form)
    assert answer.status_code == status
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("framing", "box"),
    [
        (Framing(size=Size(32, 32)), [64, 8, 80, 16]),  # 64 x 128 stretched: halves and quarters
        (Framing(size=Size(32, 32), crop=Crop(32, 0, 64, 64)), [64, 8, 80, 16]),
        (Framing(size=Size(32, 32), fit="pad"), [64, 8, 80, 16]),
        (Framing(size=Size(32, 32), fit="crop", resize=Size(32, 64)), [64, 8, 80, 16]),
    ],
)
def test_places_are_in_the_pixels_of_the_picture(framing, box):
    with Served({"bright": runtime_of(framing=framing)}) as served:
        content = encoded(spotted())
        told = served.post(f"{INSPECT}?overlay=inline", content=content).json()
        (place,) = told["regions"]
        assert place[:4] == box
        assert told["size"] == [128, 64]
        assert told["heat"].startswith("data:image/png;base64,")


def test_what_goes_on_beyond_a_picture_has_no_place():
    framing = Framing(size=Size(32, 32), fit="pad")
    picture = plain(0, (64, 128))
    picture[:4] = 255  # which the rows above the picture repeat
    with Served({"bright": runtime_of(framing=framing)}) as served:
        (place,) = served.post(INSPECT, content=encoded(picture)).json()["regions"]
        assert place[:4] == [0, 0, 128, 4]


def test_heat_lies_over_the_picture_and_an_overlay_is_a_sheet(served):
    content = encoded(spotted())
    told = served.post(f"{INSPECT}?overlay=inline", content=content).json()
    png = base64.b64decode(told["heat"].partition(",")[2])
    heat = np.asarray(Image.open(io.BytesIO(png)))
    assert heat.shape == (64, 128, 4)
    assert heat[12, 72, 3] > 150
    assert heat[50, 20, 3] == 0
    answer = served.post(f"{INSPECT}?overlay=png", content=content)
    assert answer.headers["content-type"] == "image/png"
    sheet = Image.open(io.BytesIO(answer.content))
    assert sheet.size[0] > 2 * sheet.size[1]
    assert sheet.info["Software"]  # by which it is never taken for a picture
    again = served.post(INSPECT, content=answer.content)
    assert again.status_code == 422
    assert "that `ad` drew" in again.json()["error"]
    blind = runtime_of(lambda batch: (bright(batch)[0], None), localises=False)
    with Served({"bright": blind}) as blind:
        assert blind.post(INSPECT, content=content).json()["regions"] == []
        assert "heat" not in blind.post(f"{INSPECT}?overlay=inline", content=content).json()
        answer = blind.post(f"{INSPECT}?overlay=png", content=content)
        assert "has no map to lay over them" in answer.json()["error"]


def png_that_claims(width, height):
    """A few bytes that unpack to whatever size they say."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


GIF = encoded(plain(0), "GIF")
FRAMES = io.BytesIO()
Image.fromarray(plain(0)).save(
    FRAMES, "WEBP", save_all=True, append_images=[Image.fromarray(plain(255))]
)


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 415, "The picture is empty (0 bytes)"),
        (b"hello", 415, "begins as no JPEG, PNG, BMP, TIFF, WEBP file does"),
        (GIF, 415, "begins as no JPEG"),
        (b"RIFF\0\0\0\0WAVE", 415, "begins as no JPEG"),
        (b"\x89PNG\r\n\x1a\n", 422, "begins as a PNG file and cannot be read"),
        (encoded(plain(0), "JPEG")[:200], 422, "truncated"),
        (encoded(spotted())[:-30], 422, "truncated"),
        (png_that_claims(8001, 8000), 413, "more than 64,000,000 pixels"),
        (png_that_claims(2**31 - 1, 2**31 - 1), 413, "more than 64,000,000 pixels"),
        (FRAMES.getvalue(), 422, "holds several pictures"),
    ],
)
def test_what_is_no_picture_or_a_bomb_is_refused(served, content, status, words):
    answer = served.post(INSPECT, content=content)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_kinds_that_are_decoded(served, kind):
    assert served.post(INSPECT, content=encoded(plain(255), kind)).json()["anomalous"] is True


def test_a_bad_picture_among_several_is_named(served):
    files = [encoded(plain(1)), b"hello", encoded(plain(2))]
    tail = b"".join(struct.pack("<I", len(one)) + one for one in files)
    given = {
        "name": "file",
        "datatype": "BYTES",
        "shape": [3],
        "parameters": {"binary_data_size": len(tail)},
    }
    text = json.dumps({"inputs": [given]}).encode()
    answer = served.post(
        "/v2/models/bright/infer",
        content=text + tail,
        headers={"Inference-Header-Content-Length": str(len(text))},
    )
    assert answer.status_code == 415
    assert answer.json()["error"].startswith("Picture 2 of 3 begins as no")


class Connection:
    """A request by hand, for what no client does."""

    def __init__(self, served, path=INSPECT, headers=()):
        self.served = served
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            "client": ("127.0.0.1", 1),
            "server": ("server", 80),
            "scheme": "http",
            "root_path": "",
        }
        self.sent = []
        self.read = 0

    async def run(self, messages):
        async def receive():
            async for message in messages:
                self.read += len(message.get("body", b""))
                return message
            return await asyncio.Event().wait()

        async def send(message):
            self.sent.append(message)

        await self.served.app(self.scope, receive, send)

    @property
    def status(self):
        return self.sent[0]["status"] if self.sent else None


def chunk(body, more=True):
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_is_counted_as_it_comes_whatever_its_header_says():
    with Served(limits={"body": 1000}) as served:

        async def endless():
            while True:
                yield chunk(bytes(300))

        connection = Connection(served, headers=[("content-length", "10")])
        asyncio.run(connection.run(endless()))
        assert connection.status == 413
        assert connection.read == 1200
        connection = Connection(served, headers=[("content-length", "1001")])
        asyncio.run(connection.run(endless()))
        assert (connection.status, connection.read) == (413, 0)
        answer = served.post(INSPECT, content=b"x", headers={"content-encoding": "gzip"})
        assert answer.status_code == 415
        assert "compressed (gzip), which is not taken" in answer.json()["error"]


def test_a_body_that_does_not_come_and_a_client_that_goes_leave_nothing_behind(capsys):
    with Served(limits={"timeout": 0.05}) as served:

        async def slow():
            yield chunk(b"a")
            await asyncio.Event().wait()

        async def gone():
            yield chunk(b"a")
            yield {"type": "http.disconnect"}

        connection = Connection(served)
        asyncio.run(connection.run(slow()))
        assert connection.status == 408
        connection = Connection(served)
        asyncio.run(connection.run(gone()))
        assert connection.sent == []
        assert served.work.requests == 0
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        assert [line["status"] for line in lines if line["event"] == "request"] == [408, 499]


class Held:
    """A model that works only when it is let."""

    def __init__(self, runs=bright):
        self.let, self.begun, self.scored = threading.Event(), threading.Event(), []
        self.let.set()
        self._runs = runs

    def __call__(self, batch):
        self.begun.set()
        assert self.let.wait(20)
        self.scored += [int(one[0, 0, 0]) for one in batch]
        return self._runs(batch)

    def hold(self):
        self.scored.clear()
        self.begun.clear()
        self.let.clear()


async def soon(condition):
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError


def test_a_full_queue_is_told_at_once_and_what_nobody_waits_for_is_not_computed():
    held = Held()
    with Served({"bright": runtime_of(held)}, limits={"queue": 3}) as served:
        held.hold()

        async def run():
            async with served.client() as client:

                def ask(level):
                    return asyncio.create_task(client.post(INSPECT, content=encoded(plain(level))))

                first = ask(1)
                await asyncio.to_thread(held.begun.wait, 20)
                second, third = ask(2), ask(3)
                await soon(lambda: len(served.work.inference._jobs) == 2)
                full = await client.post(INSPECT, content=encoded(plain(4)))
                assert full.status_code == 503
                assert full.headers["retry-after"] == "1"
                assert "3 requests are being worked on" in full.json()["error"]
                assert b"ad_queue 3.0" in served.metrics.text()
                health = await client.get("/v2/health/ready")
                assert health.status_code == 200
                second.cancel()
                await asyncio.gather(second, return_exceptions=True)
                await soon(lambda: served.work.requests == 2)
                held.let.set()
                answers = await asyncio.gather(first, third)
                assert [one.status_code for one in answers] == [200, 200]

        asyncio.run(run())
        assert held.scored == [1, 3]


def test_a_client_that_goes_while_it_waits_is_not_worked_for():
    held = Held()
    with Served({"bright": runtime_of(held)}) as served:
        held.hold()
        leave = asyncio.Event()

        async def run():
            async def messages():
                yield chunk(encoded(plain(7)), more=False)
                await leave.wait()
                yield {"type": "http.disconnect"}

            first = asyncio.create_task(Connection(served).run(messages()))
            await asyncio.to_thread(held.begun.wait, 20)
            waiting = Connection(served)
            second = asyncio.create_task(waiting.run(messages()))
            await soon(lambda: len(served.work.inference._jobs) == 1)
            leave.set()
            await asyncio.gather(first, second)
            assert waiting.sent == []
            held.let.set()
            async with served.client() as client:
                assert (await client.post(INSPECT, content=encoded(plain(9)))).status_code == 200

        asyncio.run(run())
        assert held.scored == [7, 9]  # the first was being computed already


def test_what_is_late_is_told_and_dropped():
    held = Held()
    with Served({"bright": runtime_of(held)}, limits={"timeout": 0.2}) as served:
        held.hold()
        answer = served.post(INSPECT, content=encoded(plain(1)))
        assert answer.status_code == 504
        assert "not there within 0.2 s" in answer.json()["error"]
        held.let.set()


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_an_error_and_never_good(score):
    def broken(batch):
        return np.full(len(batch), score, np.float32), None

    runtime = runtime_of(localises=False)
    with Served({"bright": runtime}) as served:
        runtime.engine = FakeEngine(broken, "cpu")
        answer = served.post(INSPECT, content=encoded(plain(1)))
        assert answer.status_code == 500
        assert "the model is broken" in answer.json()["error"]
        assert 'verdict="good"' not in served.metrics.text().decode()


def test_what_fails_inside_is_logged_and_not_told(capsys):
    def fails(batch):
        msg = "secret of /srv/models"
        raise RuntimeError(msg)

    runtime = runtime_of()
    with Served({"bright": runtime}) as served:
        runtime.engine = FakeEngine(fails, "cpu")
        answer = served.post(INSPECT, content=encoded(plain(1)))
        assert answer.status_code == 500
        assert answer.json() == {"error": "The server failed; its log says how."}
        runtime.engine = FakeEngine(bright, "cpu")
        assert served.post(INSPECT, content=encoded(plain(1))).status_code == 200
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (failed,) = [line for line in lines if line.get("status") == 500]
    assert "secret of /srv/models" in failed["error"]


def test_a_token_is_asked_for_but_for_health_and_the_page():
    token = b"0123456789abcdef0123"
    with Served(token=token) as served:
        for path in ("/", "/openapi.json", "/v2/health/live", "/v2/health/ready"):
            assert served.get(path).status_code == 200
        right = {"authorization": f"Bearer {token.decode()}"}
        for path in ("/metrics", "/inspect", "/v2", "/v2/models/bright", "/v2/models/x", "/other"):
            answer = served.get(path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert served.get(path, headers=right).status_code != 401
        for wrong in (
            "",
            "Bearer",
            "Bearer 0123456789abcdef012",
            f"Basic {token.decode()}",
            "\u00e9",
        ):
            headers = {"authorization": wrong.encode()}
            assert served.get("/v2", headers=headers).status_code == 401


def test_the_page_of_another_site_gets_no_answer(served):
    for headers in (
        {"origin": "http://evil"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://server"},
    ):
        answer = served.post(INSPECT, content=encoded(plain(1)), headers=headers)
        assert answer.status_code == 403
        assert "page of another site" in answer.json()["error"]
    assert served.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link
    for headers in (
        {"origin": "http://server"},
        {"origin": "https://proxy", "sec-fetch-site": "same-origin"},
    ):
        answer = served.post(INSPECT, content=encoded(plain(1)), headers=headers)
        assert answer.status_code == 200


def test_a_server_for_this_machine_alone_has_no_other_name():
    with Served(local=True) as served:
        for host in ("localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "127.1.2.3"):
            assert served.get("/v2", headers={"host": host}).status_code == 200
        for host in ("evil", "evil:8000", "localhost.evil", "127.0.0.1.evil:80", "10.0.0.1"):
            answer = served.get("/v2", headers={"host": host})
            assert answer.status_code == 403
            assert "With `--token-file` or `--without-token`" in answer.json()["error"]


def test_models_are_loaded_and_unloaded_by_request():
    models = {"bright": runtime_of, "dark": runtime_of(name="dark")}
    with Served(models, control=True) as served:
        repository = "/v2/repository"
        assert served.post(f"{repository}/models/bright/unload").status_code == 200
        states = {one["name"]: one for one in served.post(f"{repository}/index").json()}
        assert states["bright"]["state"] == "UNAVAILABLE"
        assert states["bright"]["reason"] == "unloaded"
        ready = served.post(f"{repository}/index", json={"ready": True}).json()
        assert [one["name"] for one in ready] == ["dark"]
        assert served.get("/v2/models/bright/ready").status_code == 503
        assert served.post(INSPECT, content=encoded(plain(1))).status_code == 404
        assert served.get("/v2/health/ready").status_code == 200
        assert served.post(f"{repository}/models/bright/load", json={}).status_code == 200
        assert served.post(INSPECT, content=encoded(plain(1))).status_code == 200
        answer = served.post(
            f"{repository}/models/bright/load", json={"parameters": {"config": "{}"}}
        )
        assert (answer.status_code, "has no parameters" in answer.json()["error"]) == (400, True)
        assert served.post(f"{repository}/models/other/load").status_code == 404
        answer = served.post(f"{repository}/index", json={"redy": True})
        assert answer.status_code == 400


def test_metrics_and_log_say_what_was_done_and_show_no_picture(capsys):
    with Served() as served:
        served.post(INSPECT, content=encoded(plain(255)))
        served.post(INSPECT, content=encoded(plain(0)))
        served.post(INSPECT, content=b"MARK" * 10)
        served.get("/v2/models/nothing")
        text = served.get("/metrics").text
        err = capsys.readouterr().err
    expected = {
        'ad_requests_total{model="bright",status="200"} 2.0',
        'ad_requests_total{model="bright",status="415"} 1.0',
        'ad_requests_total{model="",status="404"} 1.0',
        'ad_pictures_total{model="bright",verdict="defective"} 1.0',
        'ad_pictures_total{model="bright",verdict="good"} 1.0',
        'ad_normalized_score_count{model="bright"} 2.0',
        'ad_reloads_total{model="bright",result="loaded"} 1.0',
        "ad_queue 0.0",
    }
    assert expected <= {*text.splitlines()}
    for stage in ("decode", "wait", "infer", "encode"):
        assert f'ad_seconds_count{{model="bright",stage="{stage}"}} 2.0' in text
    assert re.search(r'ad_model_info\{.*version="1"\} 1.0', text)
    lines = [json.loads(line) for line in err.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [(one["path"], one["status"]) for one in requests] == [
        (INSPECT, 200),
        (INSPECT, 200),
        (INSPECT, 415),
        ("/v2/models/nothing", 404),
        ("/metrics", 200),
    ]
    assert requests[0]["verdicts"] == {"defective": 1}
    assert "MARK" not in err


def test_the_description_has_the_routes_and_no_others(served):
    told = served.get("/openapi.json").json()
    described = {
        (path, method.upper()) for path, methods in told["paths"].items() for method in methods
    }
    served_ = {
        (route.path, method) for route in served.app.routes for method in route.methods - {"HEAD"}
    }
    assert described == served_
    for path, methods in told["paths"].items():
        for one in methods.values():
            names = {given["name"] for given in one.get("parameters", []) if given["in"] == "path"}
            assert names == {*re.findall(r"\{(\w+)\}", path)}
    references = set(re.findall(r'"#/components/(\w+)/(\w+)"', json.dumps(told)))
    assert references == {
        (kind, name) for kind in ("schemas", "responses") for name in told["components"][kind]
    }


def test_the_page_runs_its_own_script_only_and_loads_nothing(served):
    answer = served.get("/")
    text = answer.text
    policy = answer.headers["content-security-policy"]
    for kind in ("style", "script"):
        ((own),) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "connect-src 'self'" in policy
    assert {*re.findall(r"https?://[^\s\"'`]+", text)} == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\b(src|href)=\"(?!data:)", text)
    assert not re.search(r"\bon\w+=\"|style=\"|innerHTML|eval\(", text)
