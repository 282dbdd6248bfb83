"""``aista demo``, ``aista reproduce``, ``aista study``: whole experiments, resumed by the same command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aista.cli import examples, goes_on

if TYPE_CHECKING:
    from aista.experiments.runner import Runner

app = typer.Typer()

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print every command and stop.")]


def _run(runner: Runner, dry_run: bool, no_run: bool) -> list[str] | None:
    """Run what is left to do and return what failed; in a dry run print the commands and return None."""
    if dry_run:
        typer.echo("\n".join(runner.commands()))
        return None
    return [] if no_run else runner.run()


def _exit_if(failed: list[str]) -> None:
    if failed:
        typer.echo(f"{len(failed)} did not finish: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


@app.command(
    epilog=examples(
        "aista demo",
        "aista demo --output runs/seed2 --seed 2",
        "aista demo --scale nano --output runs/nano",
    )
)
@goes_on()
def demo(
    output: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on there.")] = Path(
        "runs/demo"
    ),
    scale: Annotated[str, typer.Option(help="demo (minutes), or nano (a minute, for tests).")] = "demo",
    seed: Annotated[int, typer.Option(help="Of training and data order.")] = 1,
) -> None:
    """Select layers, train base and AI-STA, score both, write a report, translate a fresh clip.

    Speech is synthesised by espeak-ng; nothing is downloaded. Stop it with Ctrl-C, start it again.
    """
    from aista.experiments.demo import DemoPlan, run, show_translation, summarise

    summarise(run(DemoPlan(output, scale, seed=seed)), output)
    show_translation(str(output / "ai_sta") if scale == "nano" else None, output)


@app.command(
    epilog=examples(
        "aista reproduce all --scale small --seeds 3",
        "aista reproduce table2 table5 --seeds 3",
        "aista reproduce all --no-run",
        "aista reproduce all --redraw --output docs/results/small",
        "aista reproduce table4 --method my_package.my_method",
        "aista reproduce all --scale base --data data/covost2-en-zh --output runs/base",
        "aista reproduce all --scale base --data data --set align.model.backbone=models/qwen",
        'aista reproduce all --scale paper --launch "torchrun --nproc_per_node 8 -m aista" --dry-run',
    )
)
@goes_on()
def reproduce(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(help="`all`, or table1 ... table5, figure4 ... figure7.")],
    scale: Annotated[
        str,
        typer.Option(
            help="small (stand-ins, an hour), base (Whisper-base and a 0.5 B Qwen2.5 on your speech), paper "
            "(GPU node), or nano (seconds, for tests)."
        ),
    ] = "small",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of every system of tables 2, 4 and 5.")] = 1,
    every_seed: Annotated[
        bool, typer.Option("--all-seeds", help="Also table 3 and the literal cost with every seed.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder of the sweep; the same command goes on there.")] = Path(
        "runs/reproduce"
    ),
    workers: Annotated[
        int | None, typer.Option(min=0, help="Runs at once (small: one per core; 0: in this process).")
    ] = None,
    methods: Annotated[
        list[str],
        typer.Option("--method", help="Dotted name of another alignment method to sweep; repeatable."),
    ] = [],
    data: Annotated[
        Path,
        typer.Option(help="Folder of the manifests; base scale: of train.jsonl, dev.jsonl and test.jsonl."),
    ] = Path("data"),
    models: Annotated[Path, typer.Option(help="Paper scale: folder of the bases.")] = Path("models"),
    changes: Annotated[
        list[str],
        typer.Option(
            "--set", help="Base scale: change a setting of a stage, e.g. pretrain.train.max_steps=300."
        ),
    ] = [],
    launch: Annotated[str | None, typer.Option(help="Command that starts a training verb.")] = None,
    dry_run: DryRun = False,
    no_run: Annotated[
        bool,
        typer.Option(
            "--no-run",
            help="Make tables, figures and page from what is there: every seed, and the folder's own scale, "
            "data and methods where they are not named.",
        ),
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
    from aista.experiments.paper.plan import paper_plan, plan_there
    from aista.experiments.results import draw_again
    from aista.experiments.runner import AISTA, Runner

    if redraw:
        draw_again(output)
        typer.echo(write_report(output))
        return
    asked: dict[str, Any] = {
        "scale": scale, "seeds": seeds, "data": data, "models": models, "changes": changes,
        "every_seed": every_seed, "methods": methods,
    }  # fmt: skip
    if no_run:
        said = {k: v for k, v in asked.items() if "DEFAULT" not in str(context.get_parameter_source(k))}
        plan = plan_there(output, names, **said)
    else:
        plan = paper_plan(folder=output, names=names, **asked)
    runner = Runner(
        plan,
        workers={"small": None, "nano": 0}.get(scale, 1) if workers is None else workers,
        launch=shlex.split(launch) if launch else AISTA,
    )
    failed = _run(runner, dry_run, no_run)
    if failed is not None:
        typer.echo(f"\n{runner.results()}")
        _exit_if(failed)


@app.command(
    epilog=examples(
        "aista study --seeds 3",
        "aista study cosine literal --seeds 5",
        "aista study --no-run",
    )
)
@goes_on()
def study(
    names: Annotated[list[str], typer.Argument(help="Variants; all of them where none is named.")] = [],
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
    dry_run: DryRun = False,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Only make the table, which shows every run that is there.")
    ] = False,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Only draw the figure again, from its saved numbers.")
    ] = False,
) -> None:
    """Try what might make alignment help, beyond the paper: costs, weights, layers, data, stage 1.

    Every variant is compared with a run that lacks it, seed by seed, on the dev set; the table shows every
    variant and seed that the folder holds. Stop it with Ctrl-C: runs save what they have and the same command
    goes on. Exit code 1: a run failed.
    """
    from aista.experiments.results import draw_again
    from aista.experiments.runner import Runner, console
    from aista.experiments.study import StudyPlan

    if redraw:
        draw_again(output)
        return
    runner = Runner(StudyPlan(output, names, seeds=seeds, scale=scale), workers=workers)
    failed = _run(runner, dry_run, no_run)
    if failed is not None:
        text = runner.results().to_text(max(console.width, 132))
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        _exit_if(failed)
