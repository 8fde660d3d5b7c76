"""Commands that messages tell a user to type."""

import re
from pathlib import Path

import pytest

SOURCES = [
    path
    for path in (Path(__file__).parents[1] / "packages").glob("*/src/**/*.py")
    if "skeleton" not in path.parts
]
COMMANDS = "predict|evaluate|report|calibrate|export|serve|watch|show|train|data|check|bench"
PATH = r"(?:run|root|folder|target|home|path|file|export|result)(?:\.\w+)*"
UNQUOTED = re.compile(
    rf"\bad (?:{COMMANDS})\b[^`\n]*\{{{PATH}\}}|--(?:resume|data-root|output|normals) \{{{PATH}\}}"
)


@pytest.mark.parametrize(
    "told",
    ["ad predict {result.run} NEW", "ad calibrate {run} --undo", "`--resume {run}` goes on"],
)
def test_a_path_as_it_is_is_noticed(told):
    assert UNQUOTED.search(told)
    assert not UNQUOTED.search(re.sub(r"\{(.*?)\}", r"{shlex.quote(str(\1))}", told))


def test_a_path_in_a_command_is_quoted_as_a_shell_needs_it():
    """A run is called after its data, and these have blanks and brackets in their names."""
    found = [
        f"{path.name}: {line.strip()}"
        for path in SOURCES
        for line in path.read_text().splitlines()
        if UNQUOTED.search(line)
    ]
    assert found == []
