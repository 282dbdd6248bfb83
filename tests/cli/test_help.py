"""Every verb's help shows examples, and each names options that there are."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
import typer

from aista.cli import main


def verbs() -> Iterator[tuple[str, object]]:
    if not main.app.registered_groups:
        main._add_verbs()
    for name, command in typer.main.get_command(main.app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        yield from [(f"{name} {each}", inner[each]) for each in inner] if inner else [(name, command)]


VERBS = dict(verbs())


@pytest.mark.parametrize("verb", VERBS)
def test_examples_use_what_there_is(verb):
    command = VERBS[verb]
    text = (command.epilog or "").replace("\\\n", " ")
    examples = [
        line[line.index("aista ") :] for line in text.splitlines() if line.lstrip().startswith("aista ")
    ]
    assert examples, verb
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for example in examples:
        if not example.startswith(f"aista {verb}"):
            continue  # what comes before or after it
        used = {part.partition("=")[0] for part in shlex.split(example.split("|")[0]) if part.startswith("-")}
        assert used - {"-"} <= options, (example, used - options)


LOADING = ["align", "evaluate", "joint", "pretrain", "probe", "select", "serve", "translate"]


@pytest.mark.parametrize("verb", LOADING)
def test_every_verb_that_loads_a_model_can_be_told_where_its_bases_lie(verb):
    assert "--base" in {name for parameter in VERBS[verb].params for name in parameter.opts}


def test_there_is_completion():
    options = {name for parameter in typer.main.get_command(main.app).params for name in parameter.opts}
    assert "--install-completion" in options
