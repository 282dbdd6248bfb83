"""``aista download``: the official weights, from named places, checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command(
    epilog="""Examples:

    aista download                       (what there is)

    aista download beats --to models/beats
"""
)
def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="whisper, beats, vicuna, vicuna-7b, qwen2, salmonn, salmonn-7b."),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Folder; models/NAME by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Download official weights: resumed, checked by size and digest, from mirrors where they must be."""
    from aista.checkpoints.hub import SOURCES, source
    from aista.checkpoints.hub import download as fetch

    if not names:
        rows = {name: {"title": row.title, "gigabytes": row.gigabytes} for name, row in SOURCES.items()}
        if as_json:
            typer.echo(json.dumps(rows, indent=1))
            return
        for name, row in SOURCES.items():
            typer.echo(f"{name:12} {row.gigabytes:>5} GB  {row.title}")
            for place in row.places:
                typer.echo(f"{'':23}{place.url()}")
        return
    wanted = {name: source(name) for name in names}
    paths = {}
    for name, row in wanted.items():
        folder = to / name if to and len(wanted) > 1 else to
        paths[name] = str(fetch(name, folder, tell=lambda line: typer.echo(line, err=True)))
        if row.note and not as_json:
            typer.echo(row.note, err=True)
    if as_json:
        typer.echo(json.dumps(paths, indent=1))
    else:
        for path in paths.values():
            typer.echo(path)
