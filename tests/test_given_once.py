"""No option of any command takes two values, of which the last one would count without a word."""

import sys

import pytest
from typer.main import get_command

from ad.core.cli import add_plugged_in, app, main
from ad.runtime import cli
from ad.runtime.commands import serve, watch

LISTS = {
    ("bench", "data_root"), ("bench", "set_"), ("check", "set_"), ("models", "task"),
    ("train", "set_"), ("train", "track"),
}  # fmt: skip
"""The options that may be repeated; those that name something refuse a name twice."""

WORDS = "are given, and only one can count"


def commands(group, before=()):
    """All commands of `ad`, and groups of them."""
    yield " ".join(before), group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*before, name))


def options():
    """Each of `ad` and of the families' commands: its command, and its parameter."""
    add_plugged_in()
    for words, command in commands(get_command(app)):
        for one in command.params:
            if one.param_type_name == "option" and one.expose_value:
                yield words, command, one


def said(command, *typed):
    """What a command has against what is typed, if anything."""
    try:
        command.make_context("ad", [*typed])
    except Exception as error:  # of the click within Typer
        return error.format_message()
    return ""


def test_an_option_of_ad_takes_no_two_values():
    seen = set()
    for words, command, one in options():
        seen.add((words, one.name))
        name, alias = one.opts[0], one.opts[-1]
        if (words, one.name) in LISTS:
            assert WORDS not in said(command, name, "a=1", name, "b=2"), (words, name)
        elif not one.is_flag:
            expected = f"`{name} 1` and `{alias} 2` {WORDS}. Leave one out."
            assert said(command, name, "1", alias, "2") == expected, (words, name)
            assert WORDS not in said(command, name, "1", alias, "1"), (words, name)
        elif one.secondary_opts:
            no = one.secondary_opts[0]
            expected = f"`{name}` and `{no}` {WORDS}. Leave one out."
            assert said(command, name, no) == said(command, no, name) == expected, (words, name)
        elif not one.is_eager:
            assert WORDS not in said(command, name, name), (words, name)
    assert seen > {*LISTS, ("", "version"), ("data verify", "manifest")}
    assert "distill-teacher" in {words for words, _ in seen}


def parsers():
    """That of each command of `ad-runtime`, by its name."""
    (choice,) = (one for one in cli._parser()._actions if isinstance(one.choices, dict))
    return choice.choices


ALSO_OF_AD = {"serve": serve.run_line, "watch": watch.run_line}
FIRST = {"--shard": "1/2", "--move": "good=a"}
"""What an option takes, where any number will not do."""


def ended(run, typed, capsys):
    """What is said when a command line is refused."""
    with pytest.raises(SystemExit) as stopped:
        run(typed)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_an_option_of_ad_runtime_takes_no_two_values(capsys):
    seen = 0
    for command, made in parsers().items():
        for one in made._actions:
            if not one.option_strings or one.nargs == 0:
                continue
            name, alias = one.option_strings[0], one.option_strings[-1]
            first = next(iter(one.choices or [FIRST.get(name, "1")]))
            typed = [name, first, f"{alias}=other"]
            expected = f"error: `{name} {first}` and `{name} other` {WORDS}. Leave one out.\n"
            err = ended(cli.main, [command, *typed], capsys)
            assert err.endswith(expected), (command, name)
            if command in ALSO_OF_AD:
                assert ended(ALSO_OF_AD[command], typed, capsys).endswith(expected), (command, name)
            known, _ = parsers()[command].parse_known_args(
                ["x", "x", name, first, f"{alias}={first}"]
            )
            assert getattr(known, one.dest) is not None, (command, name)
            seen += 1
    assert seen > 40


def test_the_words_stand_at_80_columns_and_quote_what_was_typed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    typed = ["a b", "c", "c", f"[{'d' * 200}"]
    monkeypatch.setattr(sys, "argv", ["ad", "predict", *(f"--output={one}" for one in typed)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(line.strip("│ ") for line in lines if line.startswith("│"))
    assert words.startswith("`--output 'a b'`, `--output c` and `--output '[dddd")
    assert words.endswith("ddd...` are given, and only one can count. Leave all but one out.")


def test_what_is_typed_so_far_is_completed_all_the_same(capsys, monkeypatch):
    typed = {"COMP_WORDS": "ad train --epochs 1 --epochs 2 --see", "COMP_CWORD": "6"}
    for name, value in {**typed, "_AD_COMPLETE": "complete_bash"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["ad"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.split() == ["--seed"]
