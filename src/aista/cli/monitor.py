"""``aista monitor``: where a training run stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command(
    epilog="""Examples:

    aista monitor runs/joint

    aista monitor runs/joint --follow
"""
)
def monitor(
    folder: Annotated[Path, typer.Argument(help="Output folder of `aista pretrain` or `aista joint`.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay and redraw until it is finished.")
    ] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks with --follow.")] = 5.0,
) -> None:
    """Show a training run: step, speed, time to go, best so far, losses, curves.

    It only reads files, so it may be called from another terminal or another machine.
    """
    import time

    from rich.console import Console
    from rich.live import Live

    from aista.training.monitor import read, render

    console = Console()
    state = read(folder)
    if not follow:
        console.print(render(state, console.width))
        return
    with Live(render(state, console.width), console=console, auto_refresh=False) as live:
        while not state.finished:
            time.sleep(every)
            state = read(folder)
            live.update(render(state, console.width), refresh=True)
