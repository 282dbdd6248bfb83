"""``aista demo``: the paper on this machine, and ``aista demo build``: everything it ships, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()
demo_app = typer.Typer(invoke_without_command=True)
app.add_typer(demo_app, name="demo")

_EXAMPLES = """Examples:

    aista demo

    aista demo --output runs/seed2 --seed 2

    aista demo --scale nano --output runs/nano

    aista demo --from-scratch

    aista demo build --output runs/build
"""


@demo_app.callback(epilog=_EXAMPLES)
def demo(
    context: typer.Context,
    output: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on there.")] = Path(
        "runs/demo"
    ),
    scale: Annotated[
        str, typer.Option(help="demo (minutes), or nano (seconds, from nothing, for tests).")
    ] = "demo",
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch", help="Train the stand-in backbones and stage 1 too (about two hours)."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of training and data order.")] = 1,
) -> None:
    """Select layers, train base and AI-STA, score both, write a report, translate a fresh clip.

    Speech is synthesised by espeak-ng; nothing is downloaded. Stop it with Ctrl-C, start it again.
    """
    if context.invoked_subcommand:
        return
    from aista.demo.pipeline import Demo
    from aista.demo.showcase import show_translation, summarise

    stage1 = "aista:stage1"
    if from_scratch or scale == "nano":
        from aista.demo.build import Build

        stage1 = Build(output / "build", "nano" if scale == "nano" else "full").stage1()
    run = Demo(output, scale, stage1=stage1, seed=seed)
    results = run.run()
    summarise(results, output)
    show_translation(str(output / "ai_sta") if scale == "nano" else None, output)


@demo_app.command(epilog="Example:\n\n    aista demo build --output runs/build --install")
def build(
    output: Annotated[Path, typer.Option(help="Folder of the build; the same command goes on there.")] = Path(
        "runs/build"
    ),
    scale: Annotated[str, typer.Option(help="full, or nano for tests.")] = "full",
    install: Annotated[
        bool, typer.Option("--install", help="Put the finished models into this package.")
    ] = False,
) -> None:
    """Make everything the package ships: corpora, stand-in backbones, stage-1 model, finished model."""
    from aista.demo.build import Build

    run = Build(output, scale)
    run.all()
    if install:
        run.install()
