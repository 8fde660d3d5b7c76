"""Promises the repository makes as a whole, checked on every package."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, entry_points, version
from pathlib import Path

import pytest

import ad
from ad.core import ModelRegistry, get_dataset, load_trainer
from ad.core.registry import _HOMES, MODELS, dataset_names
from ad.core.settings import resolve_options

ROOT = Path(__file__).parents[1]
PACKAGES = sorted((ROOT / "packages").glob("ad-*"))
RUNTIME, CORE = ROOT / "packages/ad-runtime", ROOT / "packages/ad-core"
FAMILIES = [path for path in PACKAGES if path not in (RUNTIME, CORE)]


def metadata(package):
    return tomllib.loads((package / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_the_namespace_stays_open(package):
    """One file in any src/ad would hide or break every other package."""
    top = {path.name for path in (package / "src" / "ad").iterdir()}
    assert top == {package.name.removeprefix("ad-")}
    assert ad.__file__ is None


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_package_is_typed_licensed_and_described(package):
    leaf = package / "src" / "ad" / package.name.removeprefix("ad-")
    assert (leaf / "py.typed").is_file()
    assert (package / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert len((package / "README.md").read_text()) > 500


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_wheel_can_be_found_by_what_it_is_for(package):
    found, core = metadata(package), metadata(CORE)
    assert "anomaly detection" in found["keywords"]
    assert "Typing :: Typed" in found["classifiers"]
    assert not any(one.startswith("License ::") for one in found["classifiers"])  # PEP 639
    if package != RUNTIME:  # which has no torch and is nobody's to learn with
        assert (found["keywords"], found["classifiers"]) == (core["keywords"], core["classifiers"])


def test_the_citation_is_of_this_version_and_licence():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {version('ad-core')}" in lines
    assert f"license: {metadata(PACKAGES[0])['license']}" in lines


def needs(package):
    """What a package needs of this repository, with the version as it is pinned."""
    found = metadata(package)
    lines = [*found["dependencies"], *sum(found.get("optional-dependencies", {}).values(), [])]
    split = [re.fullmatch(r"(ad-\w+)(?:\[\w+\])?(.*)", line) for line in lines]
    return {(match[1], match[2]) for match in split if match}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_needs_what_stands_below_it_of_its_own_version_and_no_sister(package):
    about = (CORE / "src/ad/core/__about__.py").read_text()
    version = re.search(r'__version__ = "(\d+\.\d+\.\d+)"', about).group(1)
    below = {RUNTIME: None, CORE: "ad-runtime"}.get(package, "ad-core")
    others = {(name, pin) for name, pin in needs(package) if name != package.name}
    assert others == ({(below, f"~={version}")} if below else set())


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_the_environment_knows_the_entry_points_of_now(package):
    declared = {
        (group, name, value)
        for group, points in metadata(package).get("entry-points", {}).items()
        for name, value in points.items()
    }
    declared |= {
        ("console_scripts", name, value)
        for name, value in metadata(package).get("scripts", {}).items()
    }
    known = {
        (point.group, point.name, point.value) for point in distribution(package.name).entry_points
    }
    assert known == declared, (
        "this environment was made before entry points changed: "
        "`hatch env remove default; hatch env remove hatch-test`"
    )


def test_hints_name_the_right_distribution():
    points = entry_points(group=MODELS)
    assert {point.dist.name for point in points} >= {"ad-memory", "ad-distill", "ad-recon"}
    for point in points:
        names = _HOMES[point.dist.name]
        assert any(point.name == n or point.name.startswith(f"{n}-") for n in names)
    assert set(_HOMES) == {path.name for path in FAMILIES}


def test_nothing_says_that_a_package_of_ours_can_be_had_from_an_index():
    """Until it is true; `./packages/ad-memory`, a path of a clone, is."""
    texts = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    texts += [path for package in PACKAGES for path in package.rglob("*.md")]
    texts += [path for package in PACKAGES for path in (package / "src").rglob("*.py")]
    claim = re.compile(r"pip install[^`\n]*[\s'\"]ad-[a-z]+")
    assert claim.search("pip install ad-core ad-memory")
    assert claim.search("pip install 'ad-core[timm]'")
    assert [str(path) for path in texts if claim.search(path.read_text())] == []
    named = {n for path in texts for n in re.findall(r"\./packages/(ad-\w+)", path.read_text())}
    assert named == {path.name for path in PACKAGES}


@pytest.mark.parametrize("name", [point.name for point in entry_points(group=MODELS)])
def test_every_catalogue_entry_fits_its_trainer(name):
    spec = ModelRegistry.get(name)
    options = resolve_options(spec, load_trainer(spec), {})
    assert set(spec.model) <= set(options)
    assert spec.summary
    assert spec.paper
    assert spec.tasks


@pytest.mark.parametrize("name", dataset_names())
def test_every_dataset_describes_itself(name):
    spec = get_dataset(name)
    assert spec.name == name
    assert all((spec.summary, spec.tree, spec.source, spec.licence))


@pytest.mark.parametrize(
    "code",
    [
        "import ad.core",
        "import ad.memory",
        "import ad.distill",
        "import ad.recon",
        "import ad.flow",
        "import ad.adapt",
        "import ad.foundation",
        "import ad.distill.command",
        "from ad.core import AdError, DatasetSpec, JsonOption, ModelRegistry, ModelSpec, Sample",
    ],
)
def test_imports_are_light_and_change_nothing(code):
    probe = (
        f"import os, sys\nbefore = dict(os.environ)\n{code}\n"
        "heavy = {'torch', 'timm', 'scipy', 'faiss', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(str(heavy or before != dict(os.environ) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == ""
