"""`ad show`: one model's card."""

from __future__ import annotations

from pathlib import Path

from ad.core.cli.models import row
from ad.core.cli.options import JsonOption, ShownArgument
from ad.core.registry import ModelRegistry, load_trainer


def show(model: ShownArgument, json: JsonOption = False) -> None:
    """Show a model: paper, defaults, options; or what an exported one is.

    Example: [bold]ad show patchcore[/bold]
    """
    from rich.table import Table
    from rich.text import Text

    from ad.core.cli.console import loading, out, print_json
    from ad.core.options import allowed_of
    from ad.runtime.package import is_exported

    if is_exported(Path(model)):
        from ad.runtime.cli import main

        main(["info", model, *(["--json"] if json else [])])
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
            "weights": list(spec.pretrained),
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
    trainer = load_trainer(spec)
    options = describe_options(spec, trainer)
    if json:
        print_json(
            {
                "name": spec.name,
                **{key.replace(" ", "_"): value for key, value in facts.items() if value},
                "train": spec.train,
                "options": {
                    key: {
                        "default": value,
                        "allowed": allowed and list(allowed),
                        "limits": allowed_of(trainer, key)[1],
                    }
                    for key, (value, allowed) in options.items()
                },
            }
        )
        return
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
