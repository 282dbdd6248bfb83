"""``aista export``: our checkpoints in other projects' layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Export models to other projects' layouts.")


@app.callback()
def _group() -> None:
    """Keep the verb's name even while it is the only one."""


@app.command()
def salmonn(
    model: Annotated[Path, typer.Argument(help="Folder of a saved model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .pth file to write.")],
) -> None:
    """Write a model as a SALMONN checkpoint that SALMONN's own code can read."""
    from aista.checkpoints.salmonn import export
    from aista.errors import CheckpointError
    from aista.model.speech_lm import AistaForConditionalGeneration

    if out.exists():
        raise CheckpointError("The output file exists.", got=out, advice="Choose another --out.")
    export(AistaForConditionalGeneration.from_pretrained(model), out)
    typer.echo(f"written to {out}")
