"""Commands that take no option twice with two values: the last one would count, without a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ad.runtime.commands.once import given_twice

if TYPE_CHECKING:
    from typer.core import TyperCommand as _Base
else:
    _Base = object


# A parameter and a context are of the click within Typer, whose home is its own affair.
class GivenOnce(_Base):
    """Of a command: options have one value, ``--report`` or ``--no-report``, or are lists."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        """Read what was typed behind its name; an option with two values is refused."""
        if not ctx.resilient_parsing:  # which is for a shell that completes what is there so far
            self._refuse_two_values(ctx, args)
        return super().parse_args(ctx, args)

    def _refuse_two_values(self, ctx: Any, args: list[str]) -> None:  # noqa: ANN401
        parser = self.make_parser(ctx)
        options: list[Any] = [one for one in self.get_params(ctx) if is_single(one)]
        for one in options:
            how = "append_const" if one.is_flag else "append"
            for name in (*one.opts, *one.secondary_opts):  # in place of the option itself
                parser.add_option(one, [name], name, how, one.nargs, name in one.opts)
        given, *_ = parser.parse_args([*args])
        for one in options:
            typed: dict[object, Sequence[str]] = {}
            for name in (*one.opts, *one.secondary_opts):
                for value in given.get(name, ()):
                    typed.setdefault(value, (name,) if one.is_flag else (name, value))
            if reason := given_twice(typed.values()):
                ctx.fail(reason)


def is_single(parameter: Any) -> bool:  # noqa: ANN401
    """Whether it is an option with one value."""
    return parameter.param_type_name == "option" and not (parameter.multiple or parameter.count)
