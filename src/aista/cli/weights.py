"""``aista download``, ``import``, ``export``: other projects' weights as ours, and ours as theirs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from aista.cli import AsJson, Bases, examples, goes_on
from aista.errors import CheckpointError

app = typer.Typer()
imports = typer.Typer(no_args_is_help=True, help="Import checkpoints of SALMONN and BEATs.")
exports = typer.Typer(no_args_is_help=True, help="Export models to other projects' layouts.")

Folder = Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")]


@app.command(
    epilog=examples(
        "aista download                       (what there is)",
        "aista download beats --to models/beats",
        "aista download whisper-base qwen2.5-coder-0.5b     (the bases of the model called base)",
    )
)
@goes_on()
def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names of the list that this command prints without any."),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Folder; models/NAME by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Download official weights: resumed, checked by size and digest, from mirrors where they must be."""
    from aista.checkpoints.hub import SOURCES, source
    from aista.checkpoints.hub import download as fetch

    if not names and as_json:
        rows = {name: {"title": row.title, "gigabytes": row.gigabytes} for name, row in SOURCES.items()}
        typer.echo(json.dumps(rows, indent=1))
        return
    if not names:
        for name, row in SOURCES.items():
            typer.echo(f"{name:12} {row.gigabytes:>5} GB  {row.title}")
            for place in row.places:
                typer.echo(f"{'':23}{place.url()}")
        return
    wanted = {name: source(name) for name in names}
    paths = {}
    for name, row in wanted.items():
        folder = to / name if to and len(wanted) > 1 else to
        paths[name] = str(fetch(name, folder, tell=lambda line: typer.echo(line, err=True)))
        if row.note and not as_json:
            typer.echo(row.note, err=True)
    typer.echo(json.dumps(paths, indent=1) if as_json else "\n".join(paths.values()))


@imports.command(
    "salmonn",
    epilog=examples(
        "aista import salmonn salmonn_v1.pth --whisper models/whisper --beats models/beats/BEATs….pt\n"
        "    --llm models/vicuna --out models/salmonn-13b",
    ),
)
def from_salmonn(
    checkpoint: Annotated[Path, typer.Argument(help="salmonn_v1.pth, or what SALMONN's training wrote.")],
    whisper: Annotated[str, typer.Option(help="Whisper-large-v2: folder or hub id.")],
    llm: Annotated[str, typer.Option(help="Vicuna: folder or hub id.")],
    out: Folder,
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
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the frozen models while importing."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Import a SALMONN checkpoint: every key accounted for, every base recognised, or a reason why not."""
    from aista.checkpoints.salmonn import FrozenModels, load
    from aista.model.loading import Options
    from aista.model.processing import AistaProcessor

    if out.is_dir() and any(out.iterdir()):
        raise CheckpointError("The output folder is not empty.", got=out, advice="Choose another --out.")
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


@imports.command(
    "beats",
    epilog=examples(
        "aista import beats BEATs_iter3_plus_AS2M.pt --out models/beats",
    ),
)
def from_beats(
    checkpoint: Annotated[Path, typer.Argument(help="A published BEATs .pt file.")],
    out: Folder,
    as_json: AsJson = False,
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


@exports.command(
    epilog=examples(
        "aista export merged runs/omni-joint --out models/omni-aligned",
    )
)
def merged(
    model: Annotated[str, typer.Argument(help="Folder of a run on somebody else's speech LLM.")], out: Folder
) -> None:
    """Fold what was trained on a speech LLM of transformers into it: a plain folder that its class loads."""
    from aista.speech_llm import SpeechLM

    if out.exists():
        raise CheckpointError("The output folder exists.", got=out, advice="Choose another --out.")
    SpeechLM.load(model).save_merged(out)
    typer.echo(f"written to {out}")


@exports.command(
    epilog=examples(
        "aista export salmonn runs/joint --out joint.pth",
    )
)
def salmonn(
    model: Annotated[Path, typer.Argument(help="Folder of a saved model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .pth file to write.")],
    bases: Bases = [],
) -> None:
    """Write a model as a SALMONN checkpoint that SALMONN's own code can read."""
    from aista.checkpoints.salmonn import export
    from aista.model.speech_lm import AistaForConditionalGeneration

    if out.exists():
        raise CheckpointError("The output file exists.", got=out, advice="Choose another --out.")
    export(AistaForConditionalGeneration.from_pretrained(model), out)
    typer.echo(f"written to {out}")
