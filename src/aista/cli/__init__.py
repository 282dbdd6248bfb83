"""The command line: files of verbs, imported when one is called, and the options that several verbs have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from aista.errors import Interrupted


def _say_where(places: list[str] | None) -> list[str]:
    if places:
        os.environ["AISTA_BASES"] = os.pathsep.join(places)  # aista.model.loading.moved_bases
    return places or []


Config = Annotated[str | None, typer.Option("--config", "-c", help="YAML file of settings.")]
Overrides = Annotated[list[str], typer.Option("--set", help="Override a setting: dotted.key=value.")]
Bases = Annotated[
    list[str],
    typer.Option(
        "--base",
        callback=_say_where,
        help="ROLE=PATH: where a base of a moved model lies (backbone, speech_encoder, audio_encoder).",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def examples(*commands: str, note: str = "") -> str:
    """Return what stands below a verb's help: commands to copy, and perhaps a sentence."""
    lines = [f"    {command}" for command in commands]
    return "\n\n".join(["Examples:", *lines, *([note] if note else [])])


@contextmanager
def goes_on() -> Iterator[None]:
    """Say what Ctrl-C or SIGTERM left of a verb that goes on where it stopped.

    Raises:
        Interrupted: In place of a ``KeyboardInterrupt``.
    """
    try:
        yield
    except KeyboardInterrupt:
        what, advice = "Stopped; what was finished is kept.", "Run the same command again to go on."
        raise Interrupted(what, advice=advice) from None
