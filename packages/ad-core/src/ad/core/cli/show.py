"""`ad show`: a model's card, or what a trained detector says of itself."""

from __future__ import annotations

import shlex
from pathlib import Path

from ad.core.cli.models import row
from ad.core.cli.options import JsonOption, ShownArgument
from ad.core.registry import ModelRegistry, load_trainer


def show(model: ShownArgument, json: JsonOption = False) -> None:
    """Show a model: paper, defaults, options; or a trained or an exported one.

    A trained one tells its threshold and those before.

    Example: [bold]ad show patchcore[/bold]
    """
    from ad.runtime.package import is_exported

    if is_exported(Path(model)):
        from ad.runtime.cli import main

        main(["info", model, *(["--json"] if json else [])])
    elif model not in ModelRegistry.names() and (Path(model).is_dir() or Path(model).name != model):
        _show_run(model, json=json)
    else:
        _show_model(model, json=json)


def _show_model(model: str, *, json: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from ad.core.cli.console import loading, out, print_json
    from ad.core.options import allowed_of

    spec = ModelRegistry.get(model)
    with loading():
        from ad.core.settings import describe_options

        trainer = load_trainer(spec)
    described = {
        key: {"default": value, "choices": list(allowed), "limits": allowed_of(trainer, key)[1]}
        for key, (value, allowed) in describe_options(spec, trainer).items()
    }
    if json:
        card = {
            "paper": spec.paper,
            "url": spec.url,
            "code_licence": spec.code_licence,
            "extra_data": list(spec.extra_data),
            "trainer": spec.trainer,
        }
        print_json({**row(spec), **card, "options": described})
        return
    facts = {
        "also called": ", ".join(spec.aliases),
        "idea": spec.summary,
        "paper": spec.paper,
        "read": spec.url,
        "year": "" if spec.year is None else str(spec.year),
        "official code": spec.code_licence,
        "tasks": ", ".join(spec.tasks),
        "wants beyond good pictures": ", ".join(spec.extra_data) or "nothing",
        "package": spec.package,
        "trainer": spec.trainer,
    }
    table = Table(title=spec.name, show_header=False, title_justify="left", title_style="bold")
    for key, value in facts.items():
        if value:
            table.add_row(key, value)
    table.add_section()
    for key, value in spec.train.items():
        table.add_row(key, str(value))
    table.add_section()
    for key, one in described.items():
        value, others = one["default"], ", ".join(map(str, one["choices"]))
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        limits = f"in {one['limits']}" if one["limits"] else others
        table.add_row(f"--set {key}=", Text(f"{text}   ({limits})" if limits else text))
    out().print(table)


def _show_run(run: str, *, json: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from ad.core.cli.calibrate import described
    from ad.core.cli.console import out, print_json, say
    from ad.core.jobs.calibrations import calibrations_before
    from ad.core.predict import ModelConfig
    from ad.core.saved.files import read_config
    from ad.core.saved.record import model_folder, read_notes, run_around

    folder = model_folder(run)
    config = ModelConfig.from_json(read_config(folder), folder)
    before = calibrations_before(folder, config)
    notes = read_notes(run_around(folder))
    if json:
        others = [kept.to_json() for kept in before]
        print_json({**config.to_json(), "before": others, "notes": notes})
        return
    table = Table(title=run, show_header=False, title_justify="left", title_style="bold")
    for key, value in (
        ("model", config.model),
        ("trained on", ", ".join(config.categories)),
        ("pictures", "; ".join([f"{config.framing.size}", *config.framing.notes()])),
        ("precision", config.precision),
    ):
        table.add_row(key, Text(value))
    table.add_section()
    table.add_row("threshold", Text(_plain(described(config.calibration))))
    now = config.calibration
    if now is not None and (regions := now.promise_of_regions()) is not None:
        table.add_row("", Text(regions))
    if before:
        table.add_section()
    for number, kept in enumerate(reversed(before), start=1):
        table.add_row(f"{number} before", Text(_plain(described(kept.calibration))))
    if notes:
        table.add_section()
    for note in notes:
        table.add_row("note", Text(note))
    out().print(table)
    if before:
        say(f"hint: to take back the one before: ad calibrate {shlex.quote(str(run))} --undo")


def _plain(text: str) -> str:
    """Lines without the indent that they have where a word is before the first."""
    return "\n".join(line.strip() for line in text.splitlines())
