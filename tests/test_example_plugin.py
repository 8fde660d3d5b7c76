"""The package that docs/plugins.md builds is the one in examples/, and works where it is alone."""

import csv
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from ad.core.testing import make_picture

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples/ad-example-plugin"
SHOWN = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)


def test_the_page_shows_every_file_as_it_is():
    shown = dict(SHOWN.findall((ROOT / "docs/plugins.md").read_text()))
    files = {
        str(path.relative_to(EXAMPLE)): path.read_text()
        for path in [EXAMPLE / "pyproject.toml", *EXAMPLE.rglob("*.py")]
        if not any(part.startswith(".") for part in path.relative_to(EXAMPLE).parts)
    }
    assert set(shown) == set(files)
    assert [name for name in files if files[name] != shown[name]] == []


def make_from_the_page(folder):
    """What somebody has who follows the page: its files, and no other."""
    for name, text in SHOWN.findall((ROOT / "docs/plugins.md").read_text()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def python_with_hatchling():
    """This environment's Python, or the one beneath it, as where Hatch runs the tests."""
    for python in (sys.executable, sys._base_executable):
        if subprocess.run([python, "-c", "import hatchling"], capture_output=True).returncode == 0:
            return python
    pytest.skip("hatchling is not installed: nothing can be built")


HOOK = "import sys, hatchling.build as b; print(getattr(b, sys.argv[1])('..'))"


@pytest.mark.parametrize("hook", ["build_wheel", "prepare_metadata_for_build_editable"])
def test_what_the_page_shows_can_be_built_with_nothing_else(tmp_path, hook):
    """The second is what `pip install --editable .` asks for first."""
    folder = make_from_the_page(tmp_path / "mine")
    command = [python_with_hatchling(), "-c", HOOK, hook]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    made = tmp_path / done.stdout.split()[-1]
    if hook == "build_wheel":
        with zipfile.ZipFile(made) as wheel:
            points = wheel.read("ad_example_plugin-0.1.0.dist-info/entry_points.txt").decode()
            assert "ad_example/spread.py" in wheel.namelist()
        assert "spread = ad_example.catalogue:SPREAD" in points
        assert "picture-list = ad_example.picture_list:DATASET" in points
    else:
        assert "Requires-Dist: ad-core~=0.1.0" in (made / "METADATA").read_text()


def test_it_needs_the_core_of_this_version():
    about = (ROOT / "packages/ad-core/src/ad/core/__about__.py").read_text()
    version = re.search(r'__version__ = "(.+)"', about)[1]
    assert f'"ad-core~={version}"' in (EXAMPLE / "pyproject.toml").read_text()


def write_table(root):
    """Pictures, and the table that lists them."""
    root.mkdir()
    lines = []
    for index in range(16):
        kind = "train" if index < 10 else "good" if index < 13 else "dent"
        picture, mask = make_picture(index, size=32, defect=kind == "dent")
        Image.fromarray(picture).save(root / f"{index}.png")
        Image.fromarray(mask).save(root / f"{index}-mask.png")
        lines.append((f"{index}.png", kind, f"{index}-mask.png" if kind == "dent" else ""))
    with (root / "pictures.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("picture", "kind", "mask"), *lines])


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The commands of an environment that holds the core and the example, and nothing else."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed: no empty environment can be made")
    home = tmp_path_factory.mktemp("empty")
    commands = home / ("Scripts" if sys.platform == "win32" else "bin")
    copy = make_from_the_page(home / "example")
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, "--allow-existing", str(home)],
        # Not compiled: each command does it for the few modules that it imports.
        [uv, "pip", "install", "--quiet", "--no-compile", "--python", str(commands / "python"),
         str(ROOT / "packages/ad-runtime"), str(ROOT / "packages/ad-core"), str(copy), "pytest"],
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return commands, copy


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_is_found_trained_and_checked_in_an_environment_of_its_own(installed, tmp_path):
    commands, copy = installed

    def run(command, *arguments):
        done = subprocess.run(
            [commands / command, *arguments],
            capture_output=True, text=True, check=False, cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "COLUMNS": "200"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "spread │ ad-example-plugin" in run("ad", "models")
    assert "picture-list" in run("ad", "datasets")
    assert "pictures.csv" in run("ad", "datasets", "picture-list")
    write_table(tmp_path / "parts")
    assert "AUROC" in run("ad", "train", "picture-list", "./parts", "spread", "--output", "run")
    run("ad", "predict", "run", "parts/15.png")
    # One of the four is what `ad check` runs.
    assert "4 passed" in run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(copy))
