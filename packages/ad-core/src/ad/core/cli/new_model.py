"""`ad new-model`: a package with a model to begin with."""

from __future__ import annotations

import keyword
import re
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from ad.core.__about__ import __version__
from ad.core.cli.options import JsonOption, path_of
from ad.core.errors import SettingError
from ad.core.registry import ModelRegistry, is_ours
from ad.core.saved.claims import letting_go, make_folder

_FILES = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    ".gitignore": "gitignore.txt",
    ".ci/run": "ci.txt",
    "@PACKAGE@/__init__.py": "init.py.txt",
    "@PACKAGE@/catalogue.py": "catalogue.py.txt",
    "@PACKAGE@/@MODULE@.py": "model.py.txt",
    "@PACKAGE@/py.typed": "py.typed.txt",  # or mypy of those who import it sees no types
    "tests/test_@MODULE@.py": "test.py.txt",
}
"""What is written, and the template of it."""


def new_model(
    name: Annotated[
        str, typer.Argument(help="Its name: small letters, digits and hyphens, such as `my-model`.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("`--output`"),
            metavar="DIR",
            help="Folder to make; `ad-NAME` by default.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a package with a model of your own: it passes `ad check` as it is written.

    Example: [bold]ad new-model my-model[/bold]
    """
    from ad.core.cli.console import print_json, say

    folder, written = write_package(name, output)
    if json:
        print_json({"folder": str(folder), "files": written})
        return
    say(f"written to {folder}: {', '.join(written)}")
    say(f"\nhint: pip install --editable {shlex.quote(str(folder))} && ad check {name}")


@letting_go()
def write_package(name: str, output: Path | None = None) -> tuple[Path, list[str]]:
    """Write it.

    Args:
        name: Of the model.
        output: Folder to make; ``ad-<name>`` by default.

    Returns:
        The folder, and the files in it.

    Raises:
        SettingError: If the name cannot be one, or is taken.
        OutputError: If the folder is not empty, or cannot be written.
    """
    words = names_of(name)
    folder = Path(words["DISTRIBUTION"]) if output is None else output
    make_folder(folder)
    texts = files("ad.core.cli") / "skeleton"
    written = []
    for path, template in _FILES.items():
        file = folder / filled(path, words)
        file.parent.mkdir(exist_ok=True)
        text = (texts / template).read_text(encoding="utf-8")
        file.write_text(filled(text, words), encoding="utf-8")
        written.append(file.relative_to(folder).as_posix())
    (folder / ".ci/run").chmod(0o755)
    return folder, written


def names_of(name: str) -> dict[str, str]:
    """What stands for ``@NAME@`` and the like in a template.

    Raises:
        SettingError: If the name cannot be one, or is taken.
    """
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(module):
        near = "-".join(re.findall(r"[A-Z]*[a-z0-9]+|[A-Z]+", name)).lower()
        plain = name.isascii() and name[:1].isalpha() and not keyword.iskeyword(near)
        hint = f" Did you mean `{near}`?" if plain else ""
        msg = (
            "A model's name is small letters, digits and hyphens, begins with a letter and is no "
            f"word of Python, such as `my-model`; got {name!r}.{hint}"
        )
        raise SettingError(msg)
    if name == "catalogue" or is_ours(name) or name in ModelRegistry.names():
        msg = f"The name `{name}` is taken. Choose another one; `ad models` lists those of models."
        raise SettingError(msg)
    return {
        "NAME": name,
        "MODULE": module,
        "PACKAGE": f"ad_{module}",
        "DISTRIBUTION": f"ad-{name}",
        "CLASS": "".join(part.capitalize() for part in name.split("-")),
        "CONSTANT": module.upper(),
        "VERSION": __version__,
    }


def filled(text: str, words: dict[str, str]) -> str:
    """A template with its words."""
    return re.sub(r"@([A-Z]+)@", lambda found: words[found[1]], text)
