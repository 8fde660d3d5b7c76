"""The house: a room imports only what stands below it, and nothing goes round in a circle."""

import ast
import functools
from pathlib import Path

import pytest

import ad.core.errors

HOUSE = Path(ad.core.errors.__file__).parent

# From the top down. What stands on one line may not import each other.
ORDER = [
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
    ["callbacks", "progress", "printable"],
    ["errors", "__about__"],
]
LEVEL = {room: level for level, rooms in enumerate(reversed(ORDER)) for room in rooms}


@functools.cache
def modules():
    """Each module's path with the modules of `ad.core` that it imports, wherever in it."""
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        name = ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.walk(ast.parse(path.read_text()))
        found[name] = {name for node in tree for name in imported(node)}
    return found


def imported(node):
    if isinstance(node, ast.Import):
        return [a.name.removeprefix("ad.core.") for a in node.names if a.name.startswith("ad.core")]
    if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("ad.core"):
        return []
    inside = node.module.removeprefix("ad.core").removeprefix(".")
    if inside:
        return [inside]
    return [alias.name for alias in node.names]


def room_of(module):
    return module.partition(".")[0]


def test_every_room_has_its_place():
    rooms = {room_of(name) for name in modules()} - {"__init__"}
    assert rooms == {*LEVEL}


def test_a_room_imports_only_what_stands_below_it():
    wrong = [
        f"{name} imports {other}"
        for name, others in modules().items()
        for other in others
        if name != "__init__" and room_of(other) != room_of(name)
        if LEVEL[room_of(other)] >= LEVEL[room_of(name)]
    ]
    assert wrong == []


def test_no_imports_go_round_in_a_circle():
    graph = {
        name: {other if other in modules() else other.rpartition(".")[0] for other in others}
        for name, others in modules().items()
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
