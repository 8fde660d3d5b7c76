"""What models, plug-ins, docs and benchmarks import of `ad.core` is public, and is told as such."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ad.core

ROOT = Path(__file__).parents[1]
CORE, RUNTIME = ROOT / "packages/ad-core/src/ad/core", ROOT / "packages/ad-runtime/src/ad/runtime"
BELOW = {ROOT / "packages/ad-core", ROOT / "packages/ad-runtime"}
FAMILIES = sorted({*(ROOT / "packages").glob("ad-*")} - BELOW)
PLUGINS = ROOT / "docs/plugins.md"

ROOMS = ("errors", "networks", "synth", "metrics", "testing")
SURFACE = {"ad.core": {*ad.core._HOMES, "__version__", *ROOMS}}
SURFACE |= {
    f"ad.core.{room}": set(importlib.import_module(f"ad.core.{room}").__all__) for room in ROOMS
}

INTERNALS = {
    (
        "benchmarks/demo.py",
        "ad.core.cli.demo",
    ): "measures what `ad demo` trains, as it is set there",
    ("benchmarks/flat.py", "ad.core.figures.measure"): "measures figures without all else of a run",
    ("benchmarks/flat.py", "ad.core.jobs.inspect"): "`ad predict` by a model that is made there",
}
"""Files and modules that may be imported there though they may move, with the reason."""


def sources():
    """Each file that keeps to the surface: its name, and its code with the lines it has there."""
    code = [path for family in FAMILIES for path in (family / "src").rglob("*.py")]
    code += [*(ROOT / "examples").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    for path in sorted(code):
        yield str(path.relative_to(ROOT)), path.read_text()
    for path in pages():
        blocks = re.finditer(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
        for block in blocks:
            above = "\n" * path.read_text().count("\n", 0, block.start(1))
            yield str(path.relative_to(ROOT)), above + block[1]


def pages():
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return sorted([*found, *(ROOT / "packages").glob("*/*.md")])


def imports(code):
    """Line, module and name (None for the module itself) of each import, wherever it stands."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, module, alias.name) for alias in node.names)


def internal(module, name):
    """Whether an import is of something in the core that may move; how a relative one is meant."""
    if module == "ad" and name is not None:
        module, name = f"ad.{name}", None
    if module.startswith(".") or not f"{module}.".startswith("ad.core."):
        return module.startswith("..")  # which may lead out of the package
    return module not in SURFACE or (name is not None and name not in SURFACE[module])


def test_families_plugins_docs_and_benchmarks_import_only_what_is_public():
    found = [
        (file, line, module, name)
        for file, code in sources()
        for line, module, name in imports(code)
        if internal(module, name)
    ]
    used = {(file, module) for file, _, module, _ in found}
    wrong = [
        f"{file}:{line} imports {name or 'all'} of {module}"
        for file, line, module, name in found
        if (file, module) not in INTERNALS
    ]
    assert wrong == [], "docs/plugins.md lists what is public"
    assert {*INTERNALS} == used, "no longer needed"


def test_every_kind_of_source_is_read():
    files = {file for file, _ in sources()}
    assert {
        f"packages/{family.name}/src/ad/{family.name[3:]}/models.py" for family in FAMILIES
    } < files
    assert {
        "packages/ad-recon/src/ad/recon/dsr/vq.py",
        "examples/ad-example-plugin/ad_example/spread.py",
        "benchmarks/training.py",
        "README.md",
        "docs/plugins.md",
        "packages/ad-core/README.md",
    } < files


@pytest.mark.parametrize(
    "code",
    [
        "import ad.core.saved.files",
        "import ad.core.trainer as t",
        "from ad.core import trainer",
        "from ad.core import Setup, _HOMES",
        "from ad.core.data.samples import Sample",
        "from ad.core.errors import listed",
        "from ad.core.synth import preview",
        "from ad.core.synth.perlin import perlin_masks",
        "from ad.core import *",
        "def f():\n    from ad.core.cli.console import say",
        "from ..core.trainer import Setup",
    ],
)
def test_an_import_of_an_internal_is_seen(code):
    assert [internal(module, name) for _, module, name in imports(code)].count(True) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import ad.core, ad.core.testing",
        "from ad import core",
        "from ad.core import Setup, __version__, metrics",
        "from ad.core.networks import upsample",
        "from ad.memory.patches import Embedding",
        "from .patches import Embedding",
        "import ad.corelike",
    ],
)
def test_other_imports_are_left_alone(code):
    assert not any(internal(module, name) for _, module, name in imports(code))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda path: path.name)
def test_a_family_imports_no_sister(family):
    own = family.name.removeprefix("ad-")
    parts = [
        (module if module != "ad" else f"ad.{name}").split(".")
        for path in (family / "src").rglob("*.py")
        for _, module, name in imports(path.read_text())
    ]
    rooms = {words[1] for words in parts if words[0] == "ad"}
    assert {"core"} <= rooms <= {"core", own}


@pytest.mark.parametrize(
    ("house", "below"),
    [(CORE, ("ad.core", "ad.runtime")), (RUNTIME, ("ad.runtime",))],
    ids=["core", "runtime"],
)
def test_a_package_that_others_stand_on_imports_none_of_them(house, below):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in house.rglob("*.py")
        for line, module, name in imports(path.read_text())
        if (full := f"{module}.{name}" if module == "ad" and name else module).startswith("ad.")
        and ".".join(full.split(".")[:2]) not in below
    ]
    assert wrong == []


def shown_to_mypy(path):
    """What a module imports only where types are checked: each name and where it comes from."""
    (block,) = (
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        for alias in node.names
    }


def test_names_that_are_imported_when_first_used_are_shown_to_mypy():
    expected = {name: (home, name) for name, home in ad.core._HOMES.items()}
    assert shown_to_mypy(CORE / "__init__.py") == expected


@pytest.mark.parametrize("module", sorted(SURFACE))
def test_every_public_name_is_there_and_offered(module):
    found = importlib.import_module(module)
    for name in SURFACE[module]:
        assert getattr(found, name) is not None
    assert {*dir(found)} >= SURFACE[module] - {*ROOMS}


@pytest.mark.parametrize("module", ["ad.core", "ad.core.networks"])
def test_a_name_that_is_not_public_is_refused(module):
    with pytest.raises(ImportError, match="cannot import name 'setup'"):
        exec(f"from {module} import setup")
    with pytest.raises(AttributeError, match=f"module .{module}. has no attribute .setup."):
        importlib.import_module(module).setup  # noqa: B018


@pytest.mark.parametrize("module", sorted(SURFACE))
def test_no_public_name_is_that_of_a_module(module):
    """Importing such a module would put it in the name's place."""
    folder = CORE / module.removeprefix("ad.core").removeprefix(".")
    inside = {path.stem for path in folder.glob("*")} if folder.is_dir() else set()
    assert not inside & (SURFACE[module] - {*ROOMS})


def test_networks_ask_for_timm_with_the_first_backbone_that_is_timms_and_not_before():
    code = """
import sys
sys.modules["timm"] = None  # importing it fails
from ad.core import Setup
from ad.core.networks import FeatureExtractor
setup = Setup(img_size=32, normalize=True, weights="random")
FeatureExtractor("resnet18", ("layer1",), setup=setup)
print("so far so good")
FeatureExtractor("efficientnet_b0", ("blocks.1",), setup=setup)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "so far so good\n"
    assert "MissingExtraError: Backbones other than plain ResNets need timm, which is not" in (
        done.stderr
    )
    assert "pip install './packages/ad-core[timm]'" in done.stderr


def test_the_version_is_that_of_the_distribution():
    about = (CORE / "__about__.py").read_text()
    assert ad.core.__version__ == re.search(r'^__version__ = "(\d+\.\d+\.\d+)"$', about, re.M)[1]


def listed_names():
    """What the page lists: for each module the names in its tables, in their order."""
    _, _, text = PLUGINS.read_text().partition("\n## What stays\n")
    text = re.split(r"^## ", text, flags=re.MULTILINE)[0]
    sections = re.split(r"^### `(ad\.core[.\w]*)`.*$", text, flags=re.MULTILINE)[1:]
    return {
        module: re.findall(r"^\| `(\w+)` \| \S.*\S \|$", section, re.MULTILINE)
        for module, section in zip(sections[::2], sections[1::2], strict=True)
    }


@pytest.mark.parametrize("module", sorted(SURFACE))
def test_the_page_lists_each_public_name_once(module):
    assert sorted(listed_names()[module]) == sorted(SURFACE[module] - {*ROOMS})


def test_the_page_lists_nothing_else():
    assert listed_names().keys() == SURFACE.keys()


@pytest.mark.parametrize(
    "page",
    # The changelog speaks of what was, the design notes of what is inside.
    [path for path in pages() if path.name not in ("CHANGELOG.md", "design.md")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_pages_name_only_what_is_public(page):
    text = page.read_text().replace("python -m ad.core.cli", "ad").replace("-m ad.core.cli", "ad")
    for room, name in re.findall(r"\bad\.core\.(\w+)(?:\.(\w+))?", text):
        assert room in SURFACE["ad.core"], f"ad.core.{room}"
        assert not name or room not in ROOMS or name in SURFACE[f"ad.core.{room}"], name
