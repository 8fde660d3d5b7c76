import json
import re
import tokenize
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ad.core
from ad.core.detector import learned_buffer
from ad.core.errors import ModelFileError, OutputError
from ad.core.saved.files import read_model, save_model
from ad.core.saved.loading import load_tensors
from ad.runtime.files import write_atomic


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.part = nn.Module()
        learned_buffer(self.part, "bank", torch.float16)


@pytest.fixture
def fitted():
    torch.manual_seed(0)
    module = Small()
    module.part.bank = torch.rand(5, 3).half()
    return module


@pytest.fixture
def saved(tmp_path, fitted):
    save_model(tmp_path / "model", fitted, {"model": "small"})
    return tmp_path / "model"


def rewrite(folder, name, content):
    """Change a file and make the manifest agree with it."""
    import hashlib

    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_model_comes_back_as_it_was_whatever_size_fitting_gave_it(saved, fitted):
    tensors, config = read_model(saved)
    assert config == {"model": "small"}
    fresh = Small()
    load_tensors(fresh, tensors, saved)
    for name, tensor in fitted.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)
    assert fresh.part.bank.shape == (5, 3)


def test_a_folder_holds_three_files_and_no_leftovers(saved):
    assert sorted(p.name for p in saved.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
    ]
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_equal_models_are_equal_files(saved, fitted, tmp_path):
    save_model(tmp_path / "again", fitted, {"model": "small"})
    first, again = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (saved, tmp_path / "again")
    )
    assert set(first) == {"model.safetensors", "config.json", "manifest.json"}
    assert first == again


def test_a_saved_model_is_never_overwritten(saved, fitted):
    with pytest.raises(OutputError, match="never overwritten"):
        save_model(saved, fitted, {})


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_changed_file_is_refused(saved, name):
    content = bytearray((saved / name).read_bytes())
    content[-2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=rf"{name}` is not the file that was saved"):
        read_model(saved)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
def test_a_missing_file_is_refused(saved, name):
    (saved / name).unlink()
    with pytest.raises(ModelFileError, match="is no saved model: `.*` cannot be read"):
        read_model(saved)


def test_a_newer_format_is_refused(saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps({**manifest, "schema": 2}))
    with pytest.raises(ModelFileError, match="format 2; this version of ad-core reads format 1"):
        read_model(saved)


@pytest.mark.parametrize(
    "content",
    [b"[]", b"{", b'{"schema": 1}', b'{"schema": 1, "sha256": {"../evil": "0"}}'],
)
def test_a_malformed_manifest_is_refused(saved, content):
    (saved / "manifest.json").write_bytes(content)
    with pytest.raises(ModelFileError, match="manifest.json`"):
        read_model(saved)


@pytest.mark.parametrize("content", [b"\x80\x04K\x01.", b"\xff" * 64, b""])
def test_what_is_no_safetensors_file_is_refused(saved, content):
    rewrite(saved, "model.safetensors", content)
    with pytest.raises(ModelFileError, match="holds no model that can be read"):
        read_model(saved)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer.bias": None}, "lacks tensor `layer.bias`"),
        ({"extra": torch.zeros(1)}, "has an unknown tensor `extra`"),
        ({"layer.bias": torch.zeros(3)}, r"float32 \(3,\); torch.float32 \(2,\) is needed"),
        ({"part.bank": torch.zeros(5, 3)}, r"float32 \(5, 3\); torch.float16 \(0,\) is needed"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, saved, change, words):
    tensors = {**read_model(saved)[0], **change}
    save_file({k: v for k, v in tensors.items() if v is not None}, tmp_path / "x")
    rewrite(saved, "model.safetensors", (tmp_path / "x").read_bytes())
    with pytest.raises(ModelFileError, match=words):
        load_tensors(Small(), read_model(saved)[0], saved)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomic(path, b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ad.core.saved.files.os.fsync", full)
    with pytest.raises(OutputError, match="cannot be written .No space left on device"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_nothing_in_this_package_can_load_code_from_a_file():
    forbidden = r"\bpickle\b|torch\.load|torch\.save|joblib|yaml|marshal|(?<![.\w])(eval|exec)\("
    package = Path(ad.core.__file__).parent
    offending = [
        f"{path.name}: {line}"
        for path in package.rglob("*.py")
        for line in code_of(path)
        if re.search(forbidden, line)
    ]
    assert offending == []


def code_of(path):
    """Lines of a file without what is only said: texts, docstrings and comments."""
    # What stands between the braces of an f-string is code; from Python 3.12 on the rest is apart.
    said = (tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", None))
    lines = {}
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            text = "" if token.type in said else token.string
            row = lines.setdefault(token.start[0], [])
            row.append(text if text in (".", "(") or row[-1:] == ["."] else f" {text}")
    return ["".join(row).replace(" .", ".").replace(" (", "(") for row in lines.values()]


def test_code_that_loads_code_would_be_found(tmp_path):
    (tmp_path / "x.py").write_text('"""torch.load"""\nx = torch.load(a)  # pickle\nexec("y")\n')
    assert [line.strip() for line in code_of(tmp_path / "x.py") if line.strip()][-2:] == [
        *("x = torch.load( a )", "exec(  )")
    ]
