"""Two houses: a room imports only what stands below it, and nothing goes round in a circle."""

import ast
import functools
from pathlib import Path

import pytest

import ad.core.errors
import ad.runtime.errors

HOUSE = Path(ad.core.errors.__file__).parent
HOUSES = {"ad.core": HOUSE, "ad.runtime": Path(ad.runtime.errors.__file__).parent}

# From the top down. What stands on one line may not import each other. All of `ad.runtime` stands
# below all of `ad.core`.
CORE = [
    ["cli"],
    ["bench"],
    ["jobs"],
    ["report"],
    ["figures"],
    ["testing"],
    ["exporting"],
    ["predict"],
    ["synth"],
    ["settings"],
    ["learning"],
    ["networks"],
    ["registry"],
    ["devices"],
    ["thresholds"],
    ["trainer"],
    ["framing"],
    ["data"],
    ["saved"],
    ["metrics", "tracking", "detector", "options"],
    ["callbacks"],
    ["errors", "__about__"],
]
RUNTIME = [
    ["cli"],
    ["commands"],
    ["bench", "many", "serve", "watch"],
    ["recalibrating"],
    ["probe"],
    ["runtime"],
    ["engines", "package"],
    ["config", "map_files", "overlays", "sources", "single", "manifest"],
    ["paths", "heatmaps", "numbered", "results"],
    ["conditions", "drift", "findings"],
    ["calibration"],
    ["regions"],
    ["framing"],
    ["console", "files", "pictures", "resize"],
    ["lines", "spill"],
    ["budget"],
    ["errors", "ordered", "printable", "progress"],
]
LEVELS = {
    house: {room: level for level, rooms in enumerate(reversed(order)) for room in rooms}
    for house, order in (("ad.core", CORE), ("ad.runtime", RUNTIME))
}
both = pytest.mark.parametrize("house", HOUSES)


@functools.cache
def modules(house):
    """Each module of a house with those of the same house that it imports, wherever in it."""
    found = {}
    for path in sorted(HOUSES[house].rglob("*.py")):
        inside = path.relative_to(HOUSES[house]).with_suffix("")
        name = ".".join(inside.parts).removesuffix(".__init__")
        tree = ast.walk(ast.parse(path.read_text()))
        found[name] = {name for node in tree for name in imported(house, node)}
    return found


def imported(house, node):
    if isinstance(node, ast.Import):
        return [a.name.removeprefix(f"{house}.") for a in node.names if a.name.startswith(house)]
    if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(house):
        return []
    inside = node.module.removeprefix(house).removeprefix(".")
    if inside:
        return [inside]
    return [alias.name for alias in node.names]


def room_of(module):
    return module.partition(".")[0]


@both
def test_every_room_has_its_place(house):
    rooms = {room_of(name) for name in modules(house)} - {"__init__"}
    assert rooms == {*LEVELS[house]}


@both
def test_a_room_imports_only_what_stands_below_it(house):
    level = LEVELS[house]
    wrong = [
        f"{name} imports {other}"
        for name, others in modules(house).items()
        for other in others
        if name != "__init__" and room_of(other) != room_of(name)
        if level[room_of(other)] >= level[room_of(name)]
    ]
    assert wrong == []


@both
def test_no_imports_go_round_in_a_circle(house):
    own = modules(house)
    graph = {
        name: {other if other in own else other.rpartition(".")[0] for other in others}
        for name, others in own.items()
        if name != "__init__"
    }
    left = {name: others - {name} for name, others in graph.items()}
    while free := [name for name, others in left.items() if not others & {*left}]:
        for name in free:
            del left[name]
    assert left == {}


def test_the_root_holds_contracts_and_little_else():
    assert len(list(HOUSE.glob("*.py"))) <= 14


@pytest.mark.parametrize("job", sorted((HOUSE / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_a_job_is_readable_on_a_page(job):
    tree = ast.walk(ast.parse(job.read_text()))
    functions = [node for node in tree if isinstance(node, ast.FunctionDef)]
    assert functions or job.stem == "__init__"
    assert [f"{f.name}: {lines(f)}" for f in functions if lines(f) > 80] == []


def lines(function):
    """Lines of a function's body, without its signature and docstring."""
    first = function.body[0]
    told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = function.body[1] if told and len(function.body) > 1 else first
    return function.end_lineno - start.lineno + 1
