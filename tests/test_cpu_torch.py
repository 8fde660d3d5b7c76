"""Whether installing a family would replace a PyTorch for CPUs: asked of the resolver alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = sorted((Path(__file__).parents[1] / "packages").glob("ad-*"))


@pytest.fixture
def environment(tmp_path):
    """An environment that says it has PyTorch and torchvision for CPUs, the oldest that will do."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed: nothing can be resolved")
    if not os.environ.get("AD_NET"):
        pytest.skip("asks a package index: set AD_NET=1 to have it done")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "e"], check=True)
    (site,) = (tmp_path / "e").rglob("site-packages")
    for name, version in (("torch", "2.10.0+cpu"), ("torchvision", "0.25.0+cpu")):
        told = site / f"{name}-{version}.dist-info"
        told.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (told / "METADATA").write_text(text)
        (told / "INSTALLER").write_text("pip")
        (told / "RECORD").touch()
    return uv, next((tmp_path / "e").rglob("python"))


@pytest.mark.net
@pytest.mark.slow
def test_no_family_replaces_a_torch_for_cpus(environment):
    uv, python = environment
    command = [uv, "pip", "install", "--dry-run", "--python", python, *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    changed = re.findall(r"^ [-+~] (\S+?)(?:==| @)", done.stderr + done.stdout, re.MULTILINE)
    assert {path.name for path in PACKAGES} <= set(changed)
    assert not [name for name in changed if re.match(r"torch|triton|nvidia", name)]
