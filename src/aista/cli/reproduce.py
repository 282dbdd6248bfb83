"""``aista reproduce``: the paper's tables and figures from one command, at three scales."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

_EPILOG = """Examples:

    aista reproduce all --scale small --seeds 3

    aista reproduce table2 table5 --seeds 3

    aista reproduce all --no-run

    aista reproduce all --redraw --output docs/results/small

    aista reproduce table4 --method my_package.my_method

    aista reproduce all --scale base --data data/covost2-en-zh --output runs/base

    aista reproduce all --scale base --data data --set align.model.backbone=models/qwen

    aista reproduce all --scale paper --launch "torchrun --nproc_per_node 8 -m aista" --dry-run
"""


@app.command(epilog=_EPILOG)
def reproduce(
    names: Annotated[list[str], typer.Argument(help="`all`, or table1 ... table5, figure4 ... figure7.")],
    scale: Annotated[
        str,
        typer.Option(
            help="small (stand-ins, an hour), base (Whisper-base and a 0.5 B Qwen2.5 on your speech), paper "
            "(GPU node), or nano (seconds, for tests)."
        ),
    ] = "small",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of every system of tables 2, 4 and 5.")] = 1,
    all_seeds: Annotated[
        bool, typer.Option("--all-seeds", help="Also table 3 and the literal cost with every seed.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder of the sweep; the same command goes on there.")] = Path(
        "runs/reproduce"
    ),
    workers: Annotated[
        int | None, typer.Option(min=0, help="Runs at once (small: one per core; 0: in this process).")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Dotted name of another alignment method to sweep; repeatable.")
    ] = None,
    data: Annotated[
        Path,
        typer.Option(help="Folder of the manifests; base scale: of train.jsonl, dev.jsonl and test.jsonl."),
    ] = Path("data"),
    models: Annotated[Path, typer.Option(help="Paper scale: folder of the bases.")] = Path("models"),
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Base scale: change a setting of a stage, e.g. pretrain.train.max_steps=100."
        ),
    ] = None,
    launch: Annotated[str | None, typer.Option(help="Command that starts a training verb.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every command and stop.")] = False,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Make tables, figures and page from what is there.")
    ] = False,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Only draw figures and page again, from their saved numbers.")
    ] = False,
) -> None:
    """Train and score what the paper's tables and figures need, and make them, ours beside the paper's.

    Stop it with Ctrl-C: runs save what they have and the same command goes on. Exit code 1: a run failed.
    """
    import shlex

    from aista.experiments.paper.page import write_report
    from aista.experiments.plan import AISTA
    from aista.experiments.plans.paper import default_workers, paper_plan
    from aista.experiments.results import draw_again
    from aista.experiments.runner import Runner

    if redraw:
        draw_again(output)
        typer.echo(write_report(output))
        return
    plan = paper_plan(
        scale, output, names, seeds, data=data, models=models, changes=changes or [], every_seed=all_seeds,
        methods=method or [],
    )  # fmt: skip
    runner = Runner(
        plan,
        workers=default_workers(scale) if workers is None else workers,
        launch=shlex.split(launch) if launch else AISTA,
    )
    if dry_run:
        typer.echo("\n".join(runner.commands()))
        return
    failed = [] if no_run else runner.run()
    typer.echo(f"\n{runner.results()}")
    if failed:
        typer.echo(f"{len(failed)} did not finish: {', '.join(failed)}", err=True)
        raise typer.Exit(1)
