"""Engines: their settings as they say them themselves, the same scores, and graphs that lie."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from at_once import at_once
from onnx import helper
from tiny_export import (
    FLOAT,
    INT64,
    UINT8,
    bright_model,
    brightness,
    constant,
    graph_model,
    make_config,
    make_export,
)

from ad.runtime import load
from ad.runtime.config import Input
from ad.runtime.engines import open_engine
from ad.runtime.engines.base import reason_of
from ad.runtime.engines.openvino import the_core
from ad.runtime.errors import DataError, MissingExtraError, ModelFileError, SettingError
from ad.runtime.framing import Framing, Size

ENGINES = ("onnxruntime", "openvino")
GIVEN = [("pictures", UINT8, ["batch", 32, 32, 3])]
SCORE, MAP = ("score", FLOAT, ["batch"]), ("map", FLOAT, ["batch", 32, 32])


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    """Enough for the threads that are asked for, whatever the machine has."""
    monkeypatch.setattr("ad.runtime.runtime.usable_threads", lambda: 4)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """One export for each format and input."""
    folder = tmp_path_factory.mktemp("exports")
    make_export(folder / "uint8")
    make_export(folder / "float32", input=Input(dtype="float32", max_batch=3))
    make_export(folder / "wide", framing=Framing(size=Size(33, 65)))
    make_export(folder / "score", localises=False)
    return folder


@pytest.fixture(params=ENGINES)
def engine(request):
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return request.param


def pictures(count, *size, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (count, *(size or (32, 32)), 3))
    return values.astype(np.uint8)


def test_onnxruntime_has_the_settings_that_were_asked_for(exports):
    pytest.importorskip("onnxruntime")
    for threads in (1, 3):
        assert load(exports / "uint8", threads=threads).engine.settings() == {
            "providers": ["CPUExecutionProvider"],
            "provider_options": {"CPUExecutionProvider": {}},
            "intra_op_num_threads": threads,
            "inter_op_num_threads": 1,
            "mlas.enable_gemm_fastmath_arm64_bfloat16": "0",
        }


def test_openvino_has_the_settings_that_were_asked_for(exports):
    pytest.importorskip("openvino")
    assert load(exports / "uint8", engine="openvino", threads=1).engine.settings() == {
        "EXECUTION_DEVICES": ["CPU"],
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 1,
    }


@pytest.mark.parametrize(
    ("export", "size"),
    [("uint8", (32, 32)), ("float32", (32, 32)), ("wide", (33, 65)), ("score", (32, 32))],
)
def test_scores_and_maps_are_the_graphs_whatever_the_batch(exports, engine, export, size):
    runtime = load(exports / export, engine=engine, threads=1)
    for count in (0, 1, 2, 3, 20):  # more than `max_batch`, too
        batch = pictures(count, *size)
        expected, expected_maps = brightness(batch) if count else (np.empty(0), None)
        scores, maps = runtime.score(batch)
        assert scores.dtype == np.float32
        assert np.allclose(scores, expected, rtol=0, atol=1e-6)
        if export == "score":
            assert maps is None
            continue
        assert maps.dtype == np.float32
        assert maps.shape == (count, *size)
        if count:
            assert np.allclose(maps, expected_maps, rtol=0, atol=1e-6)


def test_an_engine_says_what_it_is(exports, engine):
    opened = load(exports / "uint8", engine=engine, threads=2).engine
    version = sys.modules[engine].__version__.partition("-")[0]
    assert opened.described == f"{engine} {version} fp32 cpu"
    assert opened.conditions.threads == 2


def difference_model():
    """An auto-encoder's way of failing: what is left of two large numbers that are nearly equal.

    Each channel is multiplied into 1 + x / 4096, of which bf16, with 8 bits, keeps 1 alone.
    """
    weights = np.full((1, 3, 1, 1), 1 / 3 / 255 / 4096)
    return graph_model(
        [
            helper.make_node("Cast", ["pictures"], ["levels"], to=FLOAT),
            helper.make_node("Transpose", ["levels"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["planes", "weights", "one"], ["near"]),
            helper.make_node("Conv", ["near", "same", "minus"], ["less"]),
            helper.make_node("Squeeze", ["less", "channel"], ["map"]),
            helper.make_node("ReduceMax", ["map", "pixels"], ["score"], keepdims=0),
        ],
        GIVEN,
        [SCORE, MAP],
        [
            constant("weights", FLOAT, weights),
            constant("one", FLOAT, [1.0]),
            constant("same", FLOAT, np.ones((1, 1, 1, 1))),
            constant("minus", FLOAT, [-1.0]),
            constant("channel", INT64, [1]),
            constant("pixels", INT64, [1, 2]),
        ],
    )


def test_a_graph_that_bf16_breaks_is_computed_in_fp32(tmp_path):
    pytest.importorskip("openvino")
    package = make_export(tmp_path / "e", model=difference_model())
    batch = pictures(2)
    expected = brightness(batch)[0] / 4096
    for engine in ENGINES:
        scores, _ = load(tmp_path / "e", engine=engine, threads=1).score(batch)
        assert np.allclose(scores, expected, rtol=1e-3)
    core = the_core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16, so that nothing is wrong without the settings")
    by_itself = core.compile_model(core.read_model(package.model), "CPU")
    (scores, _) = by_itself([batch]).values()
    assert not np.allclose(scores, expected, rtol=0.1)


def test_signals_are_heard_after_models_of_openvino_have_gone(tmp_path):
    pytest.importorskip("openvino")
    for name in "ab":
        make_export(tmp_path / name, engine="openvino")
    code = (
        "import gc, signal; import ad.runtime; heard = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: heard.append(1))\n"
        "first = ad.runtime.load('a', threads=1); second = ad.runtime.load('b', threads=1)\n"
        "del first; gc.collect()\n"
        "del second; gc.collect()\n"
        "signal.raise_signal(signal.SIGTERM); assert heard == [1]"
    )
    subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", code], cwd=tmp_path, check=True
    )


def test_threads_at_work_at_once_do_not_disturb_each_other(exports, engine):
    runtime = load(exports / "uint8", engine=engine, threads=1)
    batches = [pictures(3, seed=seed) for seed in range(4)]
    expected = [brightness(batch) for batch in batches]

    def work(number):
        scores, maps = zip(*(runtime.score(batches[number]) for _ in range(25)), strict=True)
        wanted_scores, wanted_maps = expected[number]
        return np.allclose(scores, wanted_scores, atol=1e-6) and np.allclose(
            maps, wanted_maps, atol=1e-6
        )

    assert at_once(work) == [True] * 4


def test_a_request_of_openvino_serves_one_thread_at_a_time(exports):
    pytest.importorskip("openvino")
    engine = load(exports / "uint8", engine="openvino", threads=1).engine
    (score, _), batch = engine._infer(pictures(1)), pictures(2)
    (request,) = engine._free
    assert not np.shares_memory(score, request.get_tensor("score").data)
    both, real, made = threading.Barrier(1), engine._compiled.create_infer_request, []

    class Request:
        busy = False

        def __init__(self):
            made.append(self)
            self.real = real()
            self.get_tensor = self.real.get_tensor

        def infer(self, given):
            assert not self.busy
            self.busy = True
            both.wait(5)  # both threads are here at once
            self.real.infer(given)
            both.wait(5)
            self.busy = False

    class Compiled:
        create_infer_request = Request

    engine._compiled = Compiled
    engine._free.clear()
    for _ in range(2):
        engine.run(batch)
    assert len(made) == 1
    both = threading.Barrier(2)
    found = at_once(lambda _: engine.run(batch)[0], 2)
    assert np.allclose(found, brightness(batch)[0], atol=1e-6)
    assert len(made) == 2


def test_results_stay_as_they_are_when_the_engine_goes_on(exports, engine):
    runtime = load(exports / "uint8", engine=engine, threads=1)
    scores, maps = runtime.score(pictures(2))
    kept = scores.copy(), maps.copy()
    runtime.score(255 - pictures(2))
    assert np.array_equal(scores, kept[0])
    assert np.array_equal(maps, kept[1])


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((1, 32, 33, 3), np.uint8),
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((1, 32, 32, 3), np.int64),
    ],
)
def test_another_type_or_shape_is_refused(exports, engine, batch):
    runtime = load(exports / "uint8", engine=engine, threads=1)
    words = r"must be uint8 \[B, 32, 32, 3\]; got " + f"{batch.dtype} "
    with pytest.raises(SettingError, match=words):
        runtime.score(batch)


@pytest.mark.parametrize("which", ["score", "map"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_never_passes_as_good(tmp_path, engine, which, value):
    # The sum of a picture's levels is 0 for a black one alone, and only that one is broken.
    model = bright_model()
    for node in model.graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                if name == which:
                    names[at] = f"whole {which}"
    black = [
        helper.make_node("ReduceMax", ["scaled", "all"], ["top"], keepdims=0),
        helper.make_node("Equal", ["top", "zero"], ["black"]),
        helper.make_node("Where", ["black", "broken", f"whole {which}"], [which]),
    ]
    if which == "map":
        black.insert(2, helper.make_node("Unsqueeze", ["black", "pixels"], ["of pixels"]))
        black[3].input[0] = "of pixels"
    model.graph.node.extend(black)
    model.graph.initializer.extend(
        [
            constant("all", INT64, [1, 2, 3]),
            constant("zero", FLOAT, 0.0),
            constant("broken", FLOAT, value),
        ]
    )
    make_export(tmp_path / "e", model=model)
    runtime = load(tmp_path / "e", engine=engine, threads=1)
    batch = pictures(3)
    runtime.score(batch)
    batch[1] = 0
    with pytest.raises(DataError, match=rf"The {which} of picture 1 of the batch is -?(nan|inf)"):
        runtime.score(batch)


def renamed(model, old, new):
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for port in (*model.graph.input, *model.graph.output):
        port.name = new if port.name == old else port.name
    return model


def without_map():
    model = bright_model()
    del model.graph.output[1]
    return model


def with_second_input():
    model = bright_model()
    model.graph.input.append(helper.make_tensor_value_info("more", FLOAT, [1]))
    model.graph.node.append(helper.make_node("Add", ["score", "more"], ["added"]))
    model.graph.output[0].name = "added"
    return renamed(model, "added", "score2")


def fixed_batch():
    model = bright_model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    model.graph.output[1].type.tensor_type.shape.dim[0].dim_value = 2
    return model


def cast_score():
    model = renamed(bright_model(), "score", "exact")
    model.graph.node.append(helper.make_node("Cast", ["exact"], ["score"], to=INT64))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("score", INT64, ["batch"]))
    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: renamed(bright_model(), "pictures", "image"), "inputs are `image`; 'pictures'"),
        (lambda: renamed(bright_model(), "score", "loss"), "outputs are .*`loss`.*'score', 'map'"),
        (without_map, "its outputs are `score`; 'score', 'map' are needed"),
        (with_second_input, "its inputs are `pictures`, `more`; 'pictures' are needed"),
        (lambda: bright_model((32, 64)), r"`pictures` is uint8 \[free, 32, 64, 3\]; uint8 \[free,"),
        (
            fixed_batch,
            r"input `pictures` is uint8 \[2, 32, 32, 3\]; uint8 \[free, 32, 32, 3\] is n",
        ),
        (cast_score, r"output `score` is i(nt)?64 \[free\]; float32 \[free\] is needed"),
        (lambda: bright_model(dtype="float32"), "its inputs are `images`; 'pictures' are needed"),
    ],
)
def test_a_graph_that_is_not_what_its_configuration_says_is_refused(tmp_path, engine, model, words):
    make_export(tmp_path / "e", model=model())
    with pytest.raises(ModelFileError, match=f"(?s){words}.*by something else than `ad export`"):
        load(tmp_path / "e", engine=engine, threads=1)


def test_shapes_that_only_running_tells_are_checked_then(tmp_path, engine):
    model = bright_model((32, 32))
    model = renamed(model, "map", "whole")
    model.graph.node.append(helper.make_node("Slice", ["whole", "begin", "end", "axis"], ["map"]))
    model.graph.initializer.extend(
        [
            constant("begin", INT64, [0]),
            constant("end", INT64, [31]),
            constant("axis", INT64, [2]),
        ]
    )
    model.graph.output[1].CopyFrom(
        helper.make_tensor_value_info("map", FLOAT, ["batch", 32, "width"])
    )
    make_export(tmp_path / "e", model=model)
    with pytest.raises(ModelFileError, match=r"`map` is float32 \[.*31\]"):
        load(tmp_path / "e", engine=engine, threads=1).score(pictures(2))


def test_what_no_engine_can_open_is_refused_in_its_words(tmp_path, engine):
    from ad.runtime.package import write_package

    write_package(tmp_path / "e", {"model.onnx": b"\x08\x0anonsense"}, make_config())
    with pytest.raises(ModelFileError, match=rf"{engine} .* cannot open .*model.onnx`: .+\."):
        load(tmp_path / "e", engine=engine, threads=1)


def test_a_graph_that_fails_says_where_it_ran(exports, engine, monkeypatch):
    runtime = load(exports / "uint8", engine=engine, threads=1)

    def fails(*_):
        msg = "file.cpp:7:\nindices element out of data bounds"
        raise RuntimeError(msg)

    monkeypatch.setattr(type(runtime.engine), "_infer", fails)
    words = (
        rf"model.onnx` cannot be run by {engine} .* fp32 cpu: indices element out of data bounds\."
    )
    with pytest.raises(ModelFileError, match=words):
        runtime.score(pictures(2))


@pytest.mark.parametrize(("package", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_a_missing_engine_is_named_with_what_to_install(exports, monkeypatch, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"is not installed: .*ad-runtime\[{extra}\]"):
        load(exports / "uint8", engine=package)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"engine": "tensorrt"}, "`engine` must be one of auto, onnxruntime, openvino; got 'tens"),
        ({"engine": "onnxruntime", "device": "gpu"}, "must be `cpu`, `cuda` or `cuda:N` for onnx"),
        ({"engine": "openvino", "device": "cuda"}, "must be `cpu`, `gpu` or `gpu:N` for openvino"),
        ({"engine": "onnxruntime", "device": "cuda:x"}, "got 'cuda:x'"),
        ({"engine": "openvino", "device": "gpu:7"}, "OpenVINO has no device `GPU.7` here, but CPU"),
        ({"threads": 0}, "`threads` must be a whole number from 1 to 1024; got 0"),
        ({"threads": True}, "`threads` must be a whole number from 1 to 1024; got True"),
        ({"threads": 2.0}, "`threads` must be a whole number from 1 to 1024; got 2.0"),
    ],
    ids=str,
)
def test_engines_devices_and_threads_that_cannot_be_are_refused(exports, settings, words):
    if settings.get("engine") in ENGINES:
        pytest.importorskip(settings["engine"])
    with pytest.raises(SettingError, match=words):
        load(exports / "uint8", **settings)


def test_a_device_that_onnxruntime_was_not_built_for_is_refused(exports, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(SettingError, match=r"no `CUDAExecutionProvider` .*onnxruntime-gpu.*`cpu`"):
        load(exports / "uint8", device="cuda")


def test_no_other_device_is_taken_in_silence(exports, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    real, asked = onnxruntime.InferenceSession, []

    def without_cuda(path, options, providers):  # as it does where a driver is missing
        asked.append(providers)
        return real(path, options, providers=["CPUExecutionProvider"])

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "InferenceSession", without_cuda)
    with pytest.raises(SettingError, match="by CPUExecutionProvider where CUDAExecutionProvider, "):
        load(exports / "uint8", device="cuda:1")
    cuda = ("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})
    assert asked == [[cuda, "CPUExecutionProvider"]]


def test_formats_that_the_runtime_has_no_engine_for_say_what_has(tmp_path):
    config = make_config(engine="pt2")
    with pytest.raises(
        ModelFileError, match="`pt2`, which is for programs with torch.*--format onnx`"
    ):
        open_engine(tmp_path / "model.pt2", config, threads=1)
    config = make_config(engine="openvino")
    with pytest.raises(SettingError, match="is an OpenVINO file, which onnxruntime cannot run"):
        open_engine(tmp_path / "model.xml", config, engine="onnxruntime", threads=1)


@pytest.mark.parametrize(
    ("text", "line"),
    [("", "RuntimeError."), ("\n a \n", "a."), ("file.cpp:7:\nwhy it is so.\n", "why it is so.")],
)
def test_an_engines_words_are_told_without_where_they_come_from(text, line):
    assert reason_of(RuntimeError(text)) == line
