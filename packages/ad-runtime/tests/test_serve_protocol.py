"""The Open Inference Protocol v2: golden bytes, and all that does not add up."""

import base64
import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Served, encoded, plain, runtime_of
from tiny_export import calibration

from ad.runtime.framing import Framing, Size, Tiling
from ad.runtime.serve.limits import Limits, Refused
from ad.runtime.serve.protocol import parse_object, parse_request

INFER = "/v2/models/bright/infer"
HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def served():
    with Served() as served:
        yield served


def binary(request, tail):
    text = json.dumps(request).encode()
    return {"content": text + tail, "headers": {HEADER: str(len(text))}}


def file_input(*sizes, number=None, **more):
    tail_size = sum(4 + size for size in sizes)
    return {
        "name": "file",
        "datatype": "BYTES",
        "shape": [len(sizes) if number is None else number],
        "parameters": {"binary_data_size": tail_size},
        **more,
    }


def elements(*contents):
    return b"".join(struct.pack("<I", len(content)) + content for content in contents)


def test_golden_answer_in_json(served):
    white = base64.b64encode(encoded(plain(255))).decode()
    request = {
        "id": "7",
        "inputs": [
            {
                "name": "file",
                "datatype": "BYTES",
                "shape": [1],
                "parameters": {"content_type": "base64"},
                "data": [white],
            }
        ],
        "outputs": [{"name": "score"}, {"name": "anomalous"}],
    }
    answer = served.post(INFER, content=json.dumps(request))
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == (
        b'{"model_name": "bright", "model_version": "1", "id": "7", "outputs": ['
        b'{"name": "score", "datatype": "FP32", "shape": [1], "data": [1.0]}, '
        b'{"name": "anomalous", "datatype": "BOOL", "shape": [1], "data": [true]}]}'
    )


def test_golden_answer_in_bytes(served):
    tail = elements(encoded(plain(0)), encoded(plain(255), "BMP"))
    sizes = (len(encoded(plain(0))), len(encoded(plain(255), "BMP")))
    request = {
        "inputs": [file_input(*sizes)],
        "outputs": [
            {"name": "anomalous", "parameters": {"binary_data": True}},
            {"name": "score", "parameters": {"binary_data": False}},
            {"name": "mask"},
        ],
        "parameters": {"binary_data_output": True},
    }
    answer = served.post(INFER, **binary(request, tail))
    text = (
        b'{"model_name": "bright", "model_version": "1", "outputs": ['
        b'{"name": "anomalous", "datatype": "BOOL", "shape": [2], '
        b'"parameters": {"binary_data_size": 2}}, '
        b'{"name": "score", "datatype": "FP32", "shape": [2], "data": [0.0, 1.0]}, '
        b'{"name": "mask", "datatype": "UINT8", "shape": [2, 32, 32], '
        b'"parameters": {"binary_data_size": 2048}}]}'
    )
    assert answer.headers[HEADER] == str(len(text))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.content == text + b"\x00\x01" + bytes(1024) + b"\x01" * 1024


def test_pictures_that_have_the_size_come_as_bytes_flat_or_nested(served):
    picture = plain(51)
    picture[3, 4] = 204
    pictures = {"name": "pictures", "datatype": "UINT8", "shape": [1, 32, 32, 3]}
    bodies = [
        {"content": json.dumps({"inputs": [{**pictures, "data": data}]})}
        for data in (picture.ravel().tolist(), picture[None].tolist())
    ]
    sized = {**pictures, "parameters": {"binary_data_size": picture.size}}
    bodies.append(binary({"inputs": [sized]}, picture.tobytes()))
    for body in bodies:
        outputs = served.post(INFER, **body).json()["outputs"]
        assert [one["name"] for one in outputs] == ["score", "normalized", "anomalous"]
        assert outputs[0]["data"] == [np.float32(0.8)]
        # By hand: 0.8 is 3 scales of 0.1 above 0.5.
        assert outputs[1]["data"][0] == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-6)


def test_category_and_threshold_are_those_of_the_request():
    own = {"calibrations": {"a": calibration(0.9)}, "categories": ("a", "b")}
    content = encoded(plain(204))  # 0.8
    with Served({"bright": runtime_of(**own)}) as served:

        def verdict(**parameters):
            request = {"inputs": [file_input(len(content))], "parameters": parameters}
            answer = served.post(INFER, **binary(request, elements(content)))
            if answer.status_code != 200:
                return answer.status_code, answer.json()["error"]
            return answer.json()["outputs"][2]["data"]

        assert verdict() == [True]
        assert verdict(category="a") == [False]
        assert verdict(threshold=0.85) == [False]
        assert verdict(category="a", threshold=0.75) == [True]
        for category, level in (({}, 1), ({"category": "a"}, 0)):  # and so are masks and places
            request = {
                "inputs": [file_input(len(content))],
                "outputs": [{"name": "mask", "parameters": {"binary_data": True}}],
                "parameters": category,
            }
            answer = served.post(INFER, **binary(request, elements(content)))
            assert set(answer.content[-1024:]) == {level}
            told = served.post("/inspect/bright", content=content, params=category).json()
            assert len(told["regions"]) == level
        status, error = verdict(category="c")
        assert status == 400
        assert "was not trained on a category `c`, but on `a`, `b`" in error


def test_without_calibration_there_is_a_score_and_no_verdict():
    with Served({"bright": runtime_of(calibration=None, localises=False)}) as served:
        told = served.get("/v2/models/bright").json()
        assert [one["name"] for one in told["outputs"]] == ["score"]
        content = encoded(plain(204))
        request = {"inputs": [file_input(len(content))]}
        answer = served.post(INFER, **binary(request, elements(content))).json()
        assert [one["name"] for one in answer["outputs"]] == ["score"]
        request["parameters"] = {"threshold": 0.5}
        answer = served.post(INFER, **binary(request, elements(content)))
        assert answer.status_code == 400
        assert "has no calibration, and so no scale" in answer.json()["error"]
        request = {"inputs": [file_input(len(content))], "outputs": [{"name": "anomalous"}]}
        answer = served.post(INFER, **binary(request, elements(content)))
        assert "outputs of this model are `score`; got 'anomalous'" in answer.json()["error"]


def test_a_map_is_null_in_json_where_it_is_no_number(served):
    def half(batch):
        scores, maps = np.ones(len(batch), np.float32), np.ones((len(batch), 32, 32), np.float32)
        maps[:, :, :16] = np.nan
        return scores, maps

    with Served({"bright": runtime_of(half)}) as served:
        content = encoded(plain(0))
        for as_bytes in (False, True):
            output = {"name": "map", "parameters": {"binary_data": as_bytes}}
            request = {"inputs": [file_input(len(content))], "outputs": [output]}
            answer = served.post(INFER, **binary(request, elements(content)))
            if as_bytes:
                map_ = np.frombuffer(answer.content[int(answer.headers[HEADER]) :], "<f4")
                assert np.isnan(map_.reshape(32, 32)[:, :16]).all()
            else:
                assert answer.json()["outputs"][0]["data"][:32] == [None] * 16 + [1.0] * 16


def test_a_model_that_sees_tiles_takes_files_alone():
    size = Size(64, 64)
    tiles = Framing(size=size, tiling=Tiling.of(size))
    runtime = runtime_of(framing=tiles, localises=True)
    with Served({"bright": runtime}) as served:
        told = served.get("/v2/models/bright").json()
        assert [one["name"] for one in told["inputs"]] == ["file"]
        assert told["outputs"][3] == {"name": "map", "datatype": "FP32", "shape": [-1, -1, -1]}
        large, small = plain(0, (100, 150)), encoded(plain(0, (64, 64)))
        large[90, 140] = 255
        content = encoded(large)
        request = {"inputs": [file_input(len(content))], "outputs": [{"name": "score"}]}
        answer = served.post(INFER, **binary(request, elements(content))).json()
        assert answer["outputs"][0]["data"] == [1.0]
        request = {
            "inputs": [file_input(len(content), len(small))],
            "outputs": [{"name": "map"}],
        }
        answer = served.post(INFER, **binary(request, elements(content, small)))
        assert answer.status_code == 400
        assert "of several sizes" in answer.json()["error"]


PICTURES = {"name": "pictures", "datatype": "UINT8", "shape": [1, 32, 32, 3]}
WRONG = {
    "no JSON": (b"{", "is no JSON"),
    "no object": (b"[]", "must be a JSON object"),
    "not a number": (b'{"inputs": NaN}', "NaN is no number"),
    "twice": (b'{"inputs": [], "inputs": []}', "a key is there twice"),
    "deep": (b"[" * 100_000, "no JSON|nested too deep"),
    "no text": (b"\xff\xfe", "is no JSON"),
    "unknown key": (b'{"input": []}', "known are `id`, .*Did you mean `inputs`"),
    "no input": (b'{"inputs": []}', "list of one object, which is pictures or file"),
    "id": (b'{"id": 7, "inputs": []}', "`id` must be a text"),
    "long number": (b'{"inputs": [' + b"9" * 5000 + b"]}", "is no JSON"),
}
WRONG_INPUTS = {
    "name": ({"name": "image"}, "must be named pictures or file; got 'image'"),
    "datatype": ({"datatype": "FP32"}, "is of datatype UINT8; got 'FP32'"),
    "shape": ({"shape": [1, 32, 32]}, r"shape \[N, 32, 32, 3\], N from 1; got \[1, 32, 32\]"),
    "none": ({"shape": [0, 32, 32, 3]}, "N from 1"),
    "negative": ({"shape": [-1, 32, 32, 3]}, "N from 1"),
    "sides": ({"shape": [1, -32, -32, 3]}, "must have the shape"),
    "boolean": ({"shape": [True, 32, 32, 3]}, "must have the shape"),
    "overflow": ({"shape": [2**64, 32, 32, 3]}, "at most 64 are taken"),
    "no data": ({}, "either `data` or the parameter `binary_data_size`"),
    "short": ({"data": [1, 2, 3]}, "must be 3072 numbers, flat or nested"),
    "ragged": ({"data": [[[[1, 2, 3]] * 32] * 31 + [[[1, 2, 3]]]]}, "flat or nested"),
    "high": ({"data": [256] + [0] * 3071}, "whole numbers from 0 to 255"),
    "fraction": ({"data": [0.5] * 3072}, "whole numbers from 0 to 255"),
    "text": ({"data": ["1" * 3072] * 3072}, "whole numbers from 0 to 255"),
    "truth": ({"data": [True] * 3072}, "whole numbers from 0 to 255"),
    "size": ({"parameters": {"binary_data_size": 3072}}, f"the header `{HEADER}` is missing"),
    "parameter": ({"parameters": {"size": 1}}, "cannot have 'size'; known are"),
    "parameters": ({"parameters": []}, "must be an object"),
    "as texts": (
        {"name": "file", "datatype": "BYTES", "shape": [1], "data": ["abc"]},
        '"base64"; or send it binary',
    ),
    "no base64": (
        {
            "name": "file",
            "datatype": "BYTES",
            "shape": [1],
            "data": ["\u00e9"],
            "parameters": {"content_type": "base64"},
        },
        "must be texts in base64",
    ),
}
WRONG_REST = {
    "output": ({"outputs": [{"name": "scores"}]}, "Did you mean `score`"),
    "output twice": ({"outputs": [{"name": "score"}] * 2}, "is asked for twice"),
    "outputs": ({"outputs": ["score"]}, "must be a list of objects"),
    "class": (
        {"outputs": [{"name": "score", "parameters": {"classification": 1}}]},
        "cannot have 'classification'",
    ),
    "mistyped": ({"parameters": {"treshold": 1}}, "Did you mean `threshold`"),
    "threshold": ({"parameters": {"threshold": "1"}}, "must be a finite number"),
    "huge threshold": ({"parameters": {"threshold": 10**400}}, "must be a finite number"),
    "category": ({"parameters": {"category": 1}}, "must be a text"),
    "binary": ({"parameters": {"binary_data_output": 1}}, "must be true or false"),
}


def cases():
    for name, (body, words) in WRONG.items():
        yield pytest.param(body, words, id=name)
    for name, (change, words) in WRONG_INPUTS.items():
        yield pytest.param(
            json.dumps({"inputs": [{**PICTURES, **change}]}).encode(), words, id=name
        )
    data = {**PICTURES, "data": [0] * 3072}
    for name, (change, words) in WRONG_REST.items():
        yield pytest.param(json.dumps({"inputs": [data], **change}).encode(), words, id=name)


@pytest.mark.parametrize(("body", "words"), [*cases()])
def test_a_wrong_request_is_refused_and_told_why(body, words):
    with pytest.raises(Refused, match=words) as refused:
        parse_request(body, None, runtime_of(), Limits())
    assert refused.value.status == (413 if "taken" in words else 400)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("size", "number", "tail"),
    [
        (8, 1, elements(b"abc")),  # another size than the body has
        (7, 2, elements(b"abc")),  # fewer elements than the shape says
        (7, 1, struct.pack("<I", 4) + b"abc"),  # the length leads out of the body
        (7, 1, struct.pack("<I", 2) + b"abc"),  # something is left
        (3, 1, b"abc"),  # not even a length
        (7, 1, struct.pack(">I", 3) + b"abc"),  # the highest byte first
        (-7, 1, elements(b"abc")),
        (True, 1, b"a"),
    ],
)
def test_binary_data_must_add_up(size, number, tail):
    given = file_input(0, number=number, parameters={"binary_data_size": size})
    text = json.dumps({"inputs": [given]}).encode()
    with pytest.raises(Refused, match=r"do not add up|must be the \d+ bytes behind the JSON"):
        parse_request(text + tail, str(len(text)), runtime_of(), Limits())


@pytest.mark.parametrize(
    "header", ["-1", "1.0", "", "x", "999999", "9" * 5000, "0" * 5000, "\u0663", "+2"]
)
def test_a_header_that_is_no_length_within_the_body_is_refused(header):
    with pytest.raises(Refused, match="must be the number of bytes of the JSON, at most the 2"):
        parse_request(b"{}", header, runtime_of(), Limits())


def test_a_key_that_is_nested_too_deep_to_be_shown_is_refused():
    deep = '{"inputs": [{"name": ' + "[" * 900 + "]" * 900 + "}]}"
    with pytest.raises(Refused):
        parse_request(deep.encode(), None, runtime_of(), Limits())
    with pytest.raises(Refused, match="a key is there twice"):
        parse_object(b'{"a": {"b": 1, "b": 2}}')


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_is_sent_is_answered_and_never_with_500(served, data):
    picture = encoded(plain(9))
    request = {"inputs": [file_input(len(picture))], "outputs": [{"name": "score"}]}
    tail = bytearray(elements(picture))
    for _ in range(data.draw(st.integers(0, 3))):
        where = data.draw(st.sampled_from(["request", "input", "tail", "cut"]))
        if where == "request":
            key = data.draw(st.sampled_from(["id", "inputs", "outputs", "parameters"]))
            request[key] = data.draw(VALUES)
        elif where == "input" and isinstance(request["inputs"], list) and request["inputs"]:
            key = data.draw(st.sampled_from(["name", "datatype", "shape", "parameters", "data"]))
            if isinstance(request["inputs"][0], dict):
                request["inputs"][0][key] = data.draw(VALUES)
        elif where == "tail" and tail:
            tail[data.draw(st.integers(0, len(tail) - 1))] = data.draw(st.integers(0, 255))
        else:
            tail = tail[: data.draw(st.integers(0, len(tail)))]
    text = json.dumps(request).encode()
    header = data.draw(st.sampled_from([str(len(text)), None, "0", str(len(text) + 1)]))
    answer = served.post(
        INFER, content=text + bytes(tail), headers={} if header is None else {HEADER: header}
    )
    assert answer.status_code in (200, 400, 413, 415, 422)
    assert "outputs" in answer.json() or answer.json()["error"]
