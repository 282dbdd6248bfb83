"""``aista demo``: the paper on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

_EXAMPLES = """Examples:

    aista demo

    aista demo --output runs/seed2 --seed 2

    aista demo --scale nano --output runs/nano
"""


@app.command(epilog=_EXAMPLES)
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
    from aista.experiments.plans.demo import DemoPlan, run, show_translation, summarise

    summarise(run(DemoPlan(output, scale, seed=seed)), output)
    show_translation(str(output / "ai_sta") if scale == "nano" else None, output)
