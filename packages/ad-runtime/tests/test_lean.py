"""What works beside a camera loads no torch, and nothing at all before it is used."""

import subprocess
import sys
from pathlib import Path

import ad.runtime.errors

HOUSE = Path(ad.runtime.errors.__file__).parent
HEAVY = {"torch", "scipy", "pydantic", "typer", "rich", "safetensors", "timm", "ad.core"}
OF_EXTRAS = {"onnxruntime", "openvino", "starlette", "uvicorn", "prometheus_client", "ray", "av"}
ROOMS_OF_EXTRAS = ("engines", "serve")


def loaded(code):
    """Names of all modules that a new process has after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {*done.stdout.split()}


def test_the_package_itself_loads_neither_pillow_nor_an_engine():
    assert not loaded("import ad.runtime") & (HEAVY | OF_EXTRAS | {"PIL", "numpy"})


def test_no_module_loads_what_the_runtime_does_without():
    inside = [path.relative_to(HOUSE).with_suffix("").parts for path in HOUSE.rglob("*.py")]
    names = {
        ".".join(("ad", "runtime", *parts)).removesuffix(".__init__")
        for parts in inside
        if parts[0] not in ROOMS_OF_EXTRAS and parts[-1] != "__main__"
    }
    found = loaded("\n".join(f"import {name}" for name in sorted(names)))
    assert names <= found
    assert not found & (HEAVY | OF_EXTRAS)
