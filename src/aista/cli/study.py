"""``aista study``: what changes the sign? One change of the joint run at a time, judged on the dev set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

_EPILOG = """Examples:

    aista study --seeds 3

    aista study cosine literal --seeds 5

    aista study --no-run
"""


@app.command(epilog=_EPILOG)
def study(
    names: Annotated[
        list[str] | None, typer.Argument(help="Variants; all of them where none is named.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of every variant.")] = 3,
    scale: Annotated[
        str, typer.Option(help="small (about two hours), or nano (seconds, for tests).")
    ] = "small",
    output: Annotated[Path, typer.Option(help="Folder of the study; the same command goes on there.")] = Path(
        "runs/study"
    ),
    workers: Annotated[
        int | None, typer.Option(min=0, help="Runs at once (one per core; 0: in this process).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every command and stop.")] = False,
    no_run: Annotated[bool, typer.Option("--no-run", help="Make the table from what is there.")] = False,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Only draw the figure again, from its saved numbers.")
    ] = False,
) -> None:
    """Try what might make alignment help, beyond the paper: costs, weights, layers, data, stage 1.

    Every variant is compared with a run that lacks it, seed by seed, on the dev set. Stop it with Ctrl-C:
    runs save what they have and the same command goes on. Exit code 1: a run failed.
    """
    from aista.experiments.plans.study import StudyPlan
    from aista.experiments.progress import console
    from aista.experiments.results import draw_again
    from aista.experiments.runner import Runner

    if redraw:
        draw_again(output)
        return
    runner = Runner(StudyPlan(output, names or [], seeds=seeds, scale=scale), workers=workers)
    if dry_run:
        typer.echo("\n".join(runner.commands()))
        return
    failed = [] if no_run else runner.run()
    text = runner.results().to_text(max(console.width, 132))
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if failed:
        typer.echo(f"{len(failed)} did not finish: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
