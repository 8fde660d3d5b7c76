"""Commands that say what was typed where an option takes something else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer import BadParameter

from ad.runtime.errors import shown

if TYPE_CHECKING:
    from typer.core import TyperCommand as _Base
else:
    _Base = object


# A context is of the click within Typer, whose home is its own affair.
class SaysGiven(_Base):
    """Of a command: numbers are read by pydantic, whose words leave out what it was given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        """Read what was typed behind its name; what is refused is told with the value."""
        try:
            return super().parse_args(ctx, args)
        except BadParameter as error:
            problems = getattr(error.__cause__, "errors", None)  # a `ValidationError` has them
            if problems is not None:
                reason = error.message.removeprefix("Value error, ").split(", unable to parse")[0]
                given = shown(problems()[0]["input"])
                if given not in reason:
                    reason = f"{reason[:1].lower()}{reason[1:]}; got {given}."
                error.message = reason
            raise
