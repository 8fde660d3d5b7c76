"""`ad doctor`: what is here to work with, and what each installed model would be missing.

It downloads nothing, and a family that is missing or broken is told of like anything else.
"""

from __future__ import annotations

import os
import platform
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path
from typing import Any

import typer

from ad.core.cli.options import JsonOption
from ad.core.errors import AdError, MissingExtraError, how_to_install
from ad.core.registry import ModelRegistry, ModelSpec, dataset_names, get_dataset, load_trainer


def doctor(json: JsonOption = False) -> None:
    """Show device, packages, weights and caches, and what each model would be missing.

    Status 1 if something that is installed is broken.

    Example: [bold]ad doctor[/bold]
    """
    from ad.core.cli.console import loading, print_json

    with loading():
        broken: list[dict[str, str]] = []
        found = {
            "machine": _machine(broken),
            "packages": _packages(),
            "extras": _extras(),
            "weights": _weights(broken),
            "caches": _caches(),
            "models": _models(broken),
            "broken": broken,
        }
        _check_datasets(broken)
    if json:
        print_json(found)
    else:
        _print(found)
    if broken:
        raise typer.Exit(1)


def _machine(broken: list[dict[str, str]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "device": None,
        "precision": None,
        "why": None,
    }
    try:
        from ad.core.devices import name_of, resolve_device, resolve_precision, why_precision

        device = resolve_device("auto")
        found["device"] = name_of(device)
        found["precision"] = resolve_precision("auto", device)
        found["why"] = why_precision(device)
    except (
        Exception
    ) as error:  # a torch that cannot be imported, or finds a driver it does not like
        broken.append({"name": "torch", "error": f"{type(error).__name__}: {error}"})
    return found


def _packages() -> dict[str, str]:
    """Versions of this project's packages, and of what they need in any case."""
    ours = _ours()
    needed = {name for one in ours for name, extra in _needs(one) if not extra}
    found = {name: _version(name) for name in sorted({*ours, *needed})}
    return {name: known or "missing" for name, known in found.items()}


def _extras() -> dict[str, list[str]]:
    """Extras of which something is missing, and what."""
    missing: dict[str, list[str]] = {}
    for one in _ours():
        for name, extra in _needs(one):
            if extra and _version(name) is None:
                missing.setdefault(f"{one}[{extra}]", []).append(name)
    return missing


def _ours() -> list[str]:
    """This project's installed packages, and those that were made for it."""
    named = {one.metadata["Name"] for one in distributions()} - {None}
    needing = {name for name in named if any(need == "ad-core" for need, _ in _needs(name))}
    return sorted(needing | named & {"ad-core", "ad-runtime"})


def _needs(name: str) -> Iterator[tuple[str, str]]:
    """The requirements of a distribution: name, and the extra that asks for it or nothing."""
    for text in requires(name) or ():
        needed = re.match(r"[\w.-]+", text)
        extra = re.search(r"extra\s*==\s*['\"]([\w.-]+)['\"]", text)
        if needed is not None:
            yield needed[0], extra[1] if extra else ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _weights(broken: list[dict[str, str]]) -> dict[str, Any]:
    """The folder of ``AD_WEIGHTS``, and the files of weights in it."""
    folder = os.environ.get("AD_WEIGHTS") or None
    files: list[str] = []
    if folder is not None:
        home = Path(folder).expanduser()
        if not home.is_dir():
            error = f"it names `{folder}`, which is no folder: correct it or unset it"
            broken.append({"name": "AD_WEIGHTS", "error": error})
        files = sorted(path.name for path in home.glob("*.safetensors"))
    return {"folder": folder, "files": files}


def _caches() -> list[dict[str, Any]]:
    """Folders that downloads and pictures made by code are kept in."""
    found = {}
    try:
        from huggingface_hub.constants import HF_HUB_CACHE

        found["timm's downloads"] = Path(HF_HUB_CACHE)
    except ImportError:
        pass  # without timm nothing is downloaded
    for name in dataset_names():
        try:
            made = get_dataset(name).default_root
        except AdError:
            continue
        if made is not None:
            found[f"data set {name}"] = made()
    return [{"what": what, "path": str(path), "bytes": _size(path)} for what, path in found.items()]


def _size(folder: Path) -> int:
    """Bytes below a folder; what is linked there counts where it lies."""
    total = 0
    for home, _, names in os.walk(folder):
        for name in names:
            path = Path(home) / name
            try:
                total += 0 if path.is_symlink() else path.stat().st_size
            except OSError:
                continue  # it has just been removed
    return total


def _models(broken: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Each installed model with what it would be missing."""
    found: dict[str, dict[str, Any]] = {}
    for name in ModelRegistry.names():
        try:
            spec = ModelRegistry.get(name)
            if spec.name not in found:
                found[spec.name] = {
                    "name": spec.name,
                    "package": spec.package,
                    "missing": _missing(spec),
                }
        except Exception as error:  # a broken plug-in breaks nothing but itself
            broken.append({"name": name, "error": str(error)})
    return list(found.values())


def _missing(spec: ModelSpec) -> list[str]:
    """What a model's training would be missing: packages of extras, or files of weights.

    Raises:
        PluginError: If its code cannot be imported for another reason.
    """
    try:
        load_trainer(spec)
        if not spec.pretrained:
            return []
        from ad.core.networks.stored import weights_of

        return [name for name, file in weights_of(spec).items() if file is None]
    except AdError as error:
        cause = error if isinstance(error, MissingExtraError) else error.__cause__
        if isinstance(cause, MissingExtraError):
            return [str(cause).partition("\n")[0]]
        raise


def _check_datasets(broken: list[dict[str, str]]) -> None:
    for name in dataset_names():
        try:
            get_dataset(name)
        except AdError as error:
            broken.append({"name": name, "error": str(error)})


def _print(found: Mapping[str, Any]) -> None:
    from ad.core.cli.console import notes, say

    machine = found["machine"]
    _group(
        "This machine",
        {
            "system": f"{machine['system']}, Python {machine['python']}, {machine['cores']} cores",
            "device": machine["device"] or "unknown",
            "precision": f"{machine['precision']}: {machine['why']}" if machine["why"] else "-",
        },
    )
    _group("Packages", found["packages"])
    _group(
        "Extras of which something is missing",
        {k: ", ".join(v) for k, v in found["extras"].items()},
    )
    weights = found["weights"]
    held = ", ".join(weights["files"]) or "no safetensors files"
    where = weights["folder"]
    _group("Weights", {"AD_WEIGHTS": f"{where}: {held}" if where else "not set"})
    caches = {one["what"]: f"{_bytes(one['bytes'])} in {one['path']}" for one in found["caches"]}
    _group("Caches", caches)
    by_need: dict[str, list[str]] = {}
    for one in found["models"]:
        by_need.setdefault(", ".join(one["missing"]), []).append(one["name"])
    ready = by_need.pop("", [])
    _list("Models that have all they need", {"": ready} if ready else {})
    _list("Models that would be missing", by_need)
    _group("Broken", {one["name"]: one["error"] for one in found["broken"]})
    if not found["models"]:
        notes([f"No models are installed. Install a family, {how_to_install('ad-memory')}"])
    if by_need:
        say(
            "\nhint: weights of timm's networks are downloaded when they are needed; offline, put "
            "the files\ninto a folder and set AD_WEIGHTS to it. What is trained needs none."
        )


def _list(title: str, groups: Mapping[str, Sequence[str]]) -> None:
    """Print names by what they have in common, below a title; nothing where there are none."""
    from ad.core.cli.console import out

    console = out()
    if groups:
        console.print(f"\n{title}", style="bold")
    for what, names in groups.items():
        if what:
            console.print(f"  {what}")
        indent = "    " if what else "  "
        words = textwrap.wrap(", ".join(names), console.width - len(indent), break_on_hyphens=False)
        for line in words:
            console.print(indent + line)


def _group(title: str, rows: Mapping[str, str]) -> None:
    """Print some facts below a title; nothing where there are none."""
    from rich.table import Table

    from ad.core.cli.console import out

    if not rows:
        return
    table = Table.grid(padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, value)
    console = out()
    console.print(f"\n{title}", style="bold")
    console.print(table)


def _bytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"
