"""``aista doctor``: what this machine has and lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command(
    epilog="""Examples:

    aista doctor

    aista doctor --models /data/models --json
"""
)
def doctor(
    models: Annotated[Path, typer.Option(help="Folder in which weights are looked for.")] = Path("models"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at versions, devices, memory, disk and weights; say what is missing and what mends it.

    Exit code 1 if something is missing that everything needs.
    """
    from rich.console import Console
    from rich.table import Table

    from aista.checkpoints.doctor import examine, to_json

    checks = examine(models)
    if as_json:
        typer.echo(json.dumps(to_json(checks), indent=1))
    else:
        marks = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]", "bad": "[bold red]bad[/]"}
        table = Table("", "what", "found", "to mend it", box=None)
        for check in checks:
            table.add_row(marks[check.state], check.name, check.found, check.fix or "")
        Console().print(table)
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(1)
