"""``aista export``: our checkpoints in other projects' layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aista.cli.options import Bases

app = typer.Typer(no_args_is_help=True, help="Export models to other projects' layouts.")


@app.command(
    epilog="""Examples:

    aista export merged runs/omni-joint --out models/omni-aligned
"""
)
def merged(
    model: Annotated[str, typer.Argument(help="Folder of a run on somebody else's speech LLM.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
) -> None:
    """Fold what was trained on a speech LLM of transformers into it: a plain folder that its class loads."""
    from aista.errors import CheckpointError
    from aista.speech_llm import SpeechLM

    if out.exists():
        raise CheckpointError("The output folder exists.", got=out, advice="Choose another --out.")
    SpeechLM.load(model).save_merged(out)
    typer.echo(f"written to {out}")


@app.command(
    epilog="""Examples:

    aista export salmonn runs/joint --out joint.pth
"""
)
def salmonn(
    model: Annotated[Path, typer.Argument(help="Folder of a saved model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .pth file to write.")],
    bases: Bases = [],  # noqa: B006
) -> None:
    """Write a model as a SALMONN checkpoint that SALMONN's own code can read."""
    from aista.checkpoints.salmonn import export
    from aista.errors import CheckpointError
    from aista.model.speech_lm import AistaForConditionalGeneration

    if out.exists():
        raise CheckpointError("The output file exists.", got=out, advice="Choose another --out.")
    export(AistaForConditionalGeneration.from_pretrained(model), out)
    typer.echo(f"written to {out}")
