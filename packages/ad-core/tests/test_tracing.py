"""What cannot be exported is named with its line, and what exporters do in silence is found."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ad.core import Detector, Prediction, Size
from ad.core.errors import ExportError, MissingExtraError, SettingError
from ad.core.exporting.formats import check_installed, check_onnx, embed, write_files
from ad.core.exporting.tracing import trace
from ad.runtime.config import Input

onnx = pytest.importorskip("onnx")
for extra in ("onnxscript", "onnxruntime"):
    pytest.importorskip(extra)
helper, TensorProto = onnx.helper, onnx.TensorProto
SIZE = Size(8, 8)


class OfPictures(Detector):
    """Scores by the brightest pixel, in ways of which each is in some plug-in."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)
        self.eval().requires_grad_(False)

    def forward(self, images):
        return self.whole(self.conv(images).amax(1))

    def whole(self, map_):
        return Prediction(map_.amax((1, 2)), map_)


class Counted(OfPictures):
    def forward(self, images):
        start = images.new_zeros(len(images), *images.shape[2:])
        return self.whole(start + images.amax(1))


class Asked(OfPictures):
    def forward(self, images):
        if images.shape[0] > 2:
            images = images + 1
        return self.whole(images.amax(1))


class Looped(OfPictures):
    def forward(self, images):
        return self.whole(torch.stack([one.amax(0) for one in images]))


class Decided(OfPictures):
    def forward(self, images):
        map_ = images.amax(1)
        if map_.max() > 0.5:
            map_ = map_ * 2
        return self.whole(map_)


class Automatic(OfPictures):
    def forward(self, images):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            map_ = self.conv(images).amax(1)
        return self.whole(map_.float())


class Far(OfPictures):
    """`cdist` takes another way for more than 25 rows."""

    def forward(self, images):
        rows = images.flatten(1)
        return self.whole(images.amax(1) + torch.cdist(rows, rows[:1] * 0)[:, :, None])


class Banked(OfPictures):
    def __init__(self):
        super().__init__()
        self.register_buffer("bank", torch.arange(24.0).reshape(8, 3).half())

    def forward(self, images):
        gaps = images.mean((2, 3)) @ self.bank.float().T
        return self.whole(images.amax(1) + gaps.amin(1)[:, None, None])


def traced(detector, **fields):
    return trace(detector, "tiny", SIZE, Input(**fields))


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (Counted, "start = images.new_zeros(len(images), *images.shape[2:])"),
        (Asked, "if images.shape[0] > 2:"),
    ],
)
def test_a_line_that_fixes_the_number_of_pictures_is_named(kind, line):
    with pytest.raises(ExportError, match="`tiny` cannot be exported: its `forward` fixes") as told:
        traced(kind())
    assert f"in `test_tracing.py` line {line_of(line)}, `{line}`" in str(told.value)
    assert "`images.shape[0]`" in str(told.value)
    assert "docs/plugins.md" in str(told.value)


def line_of(text):
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.strip() == text)


def test_a_loop_over_pictures_is_refused():
    with pytest.raises(ExportError, match="fixes the number of pictures.*a loop or `chunk` over"):
        traced(Looped())


def test_what_tracing_cannot_follow_is_named_with_its_line():
    with pytest.raises(ExportError, match="tracing cannot follow its `forward`") as told:
        traced(Decided())
    where = f"`test_tracing.py` line {line_of('if map_.max() > 0.5:')}, `if map_.max() > 0.5:`"
    assert where in str(told.value)
    assert "\n" not in str(told.value)


def test_autocast_is_found_in_the_file(tmp_path):
    with pytest.raises(ExportError, match=r"computes a Conv in bf16.*Leave autocast blocks out"):
        write_files(traced(Automatic()), "onnx", tmp_path)


def test_where_more_pictures_go_another_way_the_largest_batch_is_smaller():
    assert traced(Far(), max_batch=64).input.max_batch == 25
    assert traced(Far(), max_batch=8).input.max_batch == 8


def test_one_picture_at_once_is_a_batch_too():
    found = traced(OfPictures(), max_batch=1)
    assert found.input.max_batch == 1
    assert len(found.program.module()(torch.zeros(1, *SIZE, 3, dtype=torch.uint8))[0]) == 1


@pytest.mark.parametrize(("kind", "dtype"), [(OfPictures, "float32"), (Banked, "uint8")])
def test_the_file_is_the_detector_for_any_number_of_pictures(kind, dtype, tmp_path):
    """A bank in half precision is allowed: it is moved and cast, never computed with."""
    import onnxruntime

    torch.manual_seed(0)
    detector = kind()
    files = write_files(traced(detector, dtype=dtype), "onnx", tmp_path)
    session = onnxruntime.InferenceSession(files["model.onnx"])
    pictures = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    given = pictures if dtype == "uint8" else images.numpy()
    name = "pictures" if dtype == "uint8" else "images"
    score, map_ = detector(images)
    for count in (1, 2, 3):
        found = session.run(["score", "map"], {name: given[:count]})
        np.testing.assert_allclose(found[0], score[:count], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[1], map_[:count], rtol=1e-5, atol=1e-6)
    # Where in whose folder the source lies is nobody's business.
    for told in (Path(__file__).name, str(Path(__file__).parent), str(tmp_path)):
        assert told.encode() not in files["model.onnx"].read_bytes()


def test_many_numbers_have_a_file_of_their_own(tmp_path, monkeypatch):
    import onnxruntime

    monkeypatch.setattr("ad.core.exporting.formats._LARGEST", 10)
    detector = Banked()
    files = write_files(traced(detector), "onnx", tmp_path)
    assert [*files] == ["model.onnx", "model.onnx.data"]
    pictures = np.full((2, *SIZE, 3), 90, dtype=np.uint8)
    found = onnxruntime.InferenceSession(files["model.onnx"]).run(None, {"pictures": pictures})
    expected = detector(torch.full((2, 3, *SIZE), 90 / 255)).score
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    with pytest.raises(SettingError, match="cannot be a single file. Leave `--single-file` out"):
        embed(files, "{}")


def graph(*nodes, shape=("batch",), domain="", half=None):
    """A file as an exporter may write it."""
    made = helper.make_graph(
        [helper.make_node(kind, [a], [b], domain=domain, **more) for kind, a, b, more in nodes],
        "tiny",
        [helper.make_tensor_value_info("pictures", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, shape)],
        value_info=[helper.make_tensor_value_info("low", half, shape)] if half else [],
    )
    sets = [helper.make_opsetid("", 18)] + [helper.make_opsetid(domain, 1)] * bool(domain)
    return helper.make_model(made, opset_imports=sets)


COPY = ("Identity", "pictures", "score", {})


@pytest.mark.parametrize("half", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_numbers_may_be_kept_in_half_precision_and_not_computed(half):
    found = traced(OfPictures())
    down, up = {"to": half}, {"to": TensorProto.FLOAT}
    check_onnx(
        found, graph(("Cast", "pictures", "low", down), ("Cast", "low", "score", up), half=half)
    )
    bad = graph(
        ("Cast", "pictures", "given", down),
        ("Exp", "given", "low", {}),
        ("Cast", "low", "score", up),
        half=half,
    )
    with pytest.raises(ExportError, match="computes a Exp in (fp16|bf16)"):
        check_onnx(found, bad)


def test_what_exporters_fall_back_to_in_silence_is_refused():
    found = traced(OfPictures())
    check_onnx(found, graph(COPY))
    with pytest.raises(ExportError, match="`tiny` cannot.*fixed the number of pictures.* at 2, so"):
        check_onnx(found, graph(COPY, shape=(2,)))
    with pytest.raises(ExportError, match=r"operators that are not ONNX's own \(com.other\)"):
        check_onnx(found, graph(COPY, domain="com.other"))


@pytest.mark.parametrize(
    ("format_", "package", "extra"),
    [
        ("onnx", "onnxscript", "onnx"),
        ("onnx", "onnxruntime", "onnx"),
        ("openvino", "openvino", "openvino"),
    ],
)
def test_what_is_not_installed_is_named_with_what_to_type(format_, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    told = rf"needs {package}, which is not installed: .*'./packages/ad-core\[{extra}\]'"
    with pytest.raises(MissingExtraError, match=told):
        check_installed(format_)
    check_installed("pt2")
