"""``aista import``: other projects' checkpoints become ours."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Import checkpoints of SALMONN and BEATs.")


@app.command(
    epilog="""Example:

    aista import salmonn salmonn_v1.pth --whisper models/whisper --beats models/beats/BEATs….pt
    --llm models/vicuna --out models/salmonn-13b
"""
)
def salmonn(
    checkpoint: Annotated[Path, typer.Argument(help="salmonn_v1.pth, or what SALMONN's training wrote.")],
    whisper: Annotated[str, typer.Option(help="Whisper-large-v2: folder or hub id.")],
    llm: Annotated[str, typer.Option(help="Vicuna: folder or hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    beats: Annotated[str | None, typer.Option(help="BEATs .pt file.")] = None,
    qformer_heads: Annotated[
        int | None, typer.Option(help="Heads of the Q-Former, if not 64 dimensions each.")
    ] = None,
    any_llm: Annotated[
        bool, typer.Option("--any-llm", help="Take another language model of the right size.")
    ] = False,
    parity: Annotated[
        bool, typer.Option("--parity", help="Keep SALMONN's numbers to the last habit (batches, pads).")
    ] = False,
    dtype: Annotated[str | None, typer.Option(help="Of the frozen models while importing.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Import a SALMONN checkpoint: every key accounted for, every base recognised, or a reason why not."""
    from aista.checkpoints.salmonn import FrozenModels, load
    from aista.model.loading import Options
    from aista.model.processing import AistaProcessor

    model = load(
        checkpoint,
        FrozenModels(whisper, beats, llm),
        qformer_heads=qformer_heads,
        any_llm=any_llm,
        parity=parity,
        options=Options(dtype),
    )
    model.save_pretrained(out)
    AistaProcessor.from_config(model.config).save_pretrained(out)
    report = model.import_report
    typer.echo(json.dumps(asdict(report), indent=1) if as_json else f"{report}\nwritten to {out}")


@app.command(
    epilog="""Examples:

    aista import beats BEATs_iter3_plus_AS2M.pt --out models/beats
"""
)
def beats(
    checkpoint: Annotated[Path, typer.Argument(help="A published BEATs .pt file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Turn a BEATs file into a safetensors folder (models take the file itself, too)."""
    from aista.checkpoints.beats import convert

    report = convert(checkpoint, out)
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=1))
        return
    known = "the published file that SALMONN uses" if report.published else "not the file that SALMONN uses"
    head = f"a head of {report.labels} classes" if report.labels else "no head"
    typer.echo(f"BEATs of {report.layers} layers, {report.parameters:,} parameters, {head}: {known}")
    typer.echo(f"written to {out}")
