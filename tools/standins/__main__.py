"""What the package ships, made again: ``python -m tools.standins`` in a checkout.

Corpora, stand-in backbones, the stage-1 models and the finished model; the demo on models that were trained
from nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tools import standins

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
Scale = Annotated[str, typer.Option(help="full, or nano for tests.")]


@app.command(epilog="Example:\n\n    python -m tools.standins build --output runs/build --install")
def build(
    output: Annotated[Path, typer.Option(help="Folder of the build; the same command goes on there.")] = Path(
        "runs/build"
    ),
    scale: Scale = "full",
    install: Annotated[
        bool, typer.Option("--install", help="Put the finished models into the package.")
    ] = False,
) -> None:
    """Make everything the package ships: corpora, stand-in backbones, stage-1 models, finished model."""
    from tools.standins.build import Build

    run = Build(output, scale)
    run.all()
    if install:
        run.install()


@app.command(epilog="Example:\n\n    python -m tools.standins demo --output runs/from_scratch")
def demo(
    output: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on there.")] = Path(
        "runs/from_scratch"
    ),
    scale: Scale = "full",
    seed: Annotated[int, typer.Option(help="Of training and data order.")] = 1,
) -> None:
    """Run the demo from nothing: its stand-in backbones and its stage 1 are trained too (about two hours)."""
    from aista.experiments.demo import DemoPlan, run, summarise
    from tools.standins.build import Build

    stage1 = Build(output / "build", scale).stage1()
    plan = DemoPlan(output, "nano" if scale == "nano" else "demo", stage1=stage1, seed=seed)
    summarise(run(plan), output)


@app.command(epilog="Example:\n\n    python -m tools.standins evaluate runs/build runs/build/corpus whisper")
def evaluate(
    folder: Annotated[Path, typer.Argument(help="Folder of a build.")],
    corpora: Annotated[Path, typer.Argument(help="Folder of its corpora.")],
    names: Annotated[list[str] | None, typer.Argument(help="Stand-ins; every finished one.")] = None,
) -> None:
    """Score stand-ins on held-out data and write the scores into their cards."""
    for name in names or standins.NAMES:
        if (folder / name / "card.json").exists():
            typer.echo(f"{name} {standins.evaluate(name, folder / name, corpora)}")


if __name__ == "__main__":
    app()
