"""``aista doctor``, ``estimate``, ``engine``: what a machine has, what a model needs, how it is launched."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import typer

from aista.cli import AsJson, Overrides, examples
from aista.errors import ConfigError

app = typer.Typer()


@app.command(
    epilog=examples(
        "aista doctor",
        "aista doctor --models /data/models --json",
    )
)
def doctor(
    models: Annotated[Path, typer.Option(help="Folder in which weights are looked for.")] = Path("models"),
    as_json: AsJson = False,
) -> None:
    """Look at versions, devices, memory, disk and weights; say what is missing and what mends it.

    Exit code 1 if something is missing that everything needs.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from aista.checkpoints.doctor import examine, to_json

    checks = examine(models)
    if as_json:
        typer.echo(json.dumps(to_json(checks), indent=1))
    else:
        marks = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]", "bad": "[bold red]bad[/]"}
        table = Table("", "what", "found", "to mend it", box=None)
        for check in checks:
            texts = (check.name, check.found, check.fix or "")
            table.add_row(marks[check.state], *(escape(text) for text in texts))
        Console(emoji=False).print(table)
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(1)


@app.command(
    epilog=examples(
        "aista estimate --preset qwen2-7b --batch-size 8",
        "aista estimate --config pretrain.yaml --seconds 12 --quantization 4bit --json",
        note="What is not given is as the file says; with --preset: batch 8, bfloat16, no quantization.",
    )
)
def estimate(
    config: Annotated[str | None, typer.Option("--config", "-c", help="YAML file of stage 1.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="The paper's set-up on vicuna-13b, vicuna-7b or qwen2-7b.")
    ] = None,
    overrides: Overrides = [],
    batch_size: Annotated[int | None, typer.Option(min=1, help="Utterances per step of one process.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of an utterance.")] = 30.0,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, typer.Option(help="Of the frozen weights.")
    ] = None,
    quantization: Annotated[Literal["4bit", "8bit"] | None, typer.Option(help="Of the backbone.")] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--checkpointing/--no-checkpointing", help="Recompute activations in the backward pass."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count parameters, tokens and memory of a model without its weights."""
    from aista.config import PretrainSettings
    from aista.model.estimate import estimate as run
    from aista.model.estimate import preset as by_name
    from aista.model.loading import configure

    if (config is None) == (preset is None):
        raise ConfigError("Give either --config or --preset.", advice="aista estimate --preset qwen2-7b")
    if preset:
        if overrides:
            raise ConfigError(
                "--set changes the settings of a file, and a preset has none.",
                got=" ".join(overrides),
                expected="--config FILE --set ...",
                advice="Give batch, dtype and quantization of a preset by their own options.",
            )
        model = by_name(preset)
    else:
        settings = PretrainSettings.load(config, overrides)
        if (shapes := settings.model) is None:
            raise ConfigError(
                "There is nothing to estimate in settings that start from a saved model.",
                expected="model: the bases and shapes of a new one",
            )
        model = configure(**shapes.model_dump(exclude={"dtype", "quantization", "speech_token_scale"}))
        batch_size = batch_size or settings.train.per_device_train_batch_size
        dtype, quantization = dtype or shapes.dtype, quantization or shapes.quantization
        checkpointing = settings.train.activation_checkpointing if checkpointing is None else checkpointing
    batch_size, dtype = batch_size or 8, dtype or "bfloat16"
    result = run(
        model,
        batch_size=batch_size,
        seconds=seconds,
        dtype=dtype,
        quantization=quantization,
        checkpointing=bool(checkpointing),
    )
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=1))
        return
    for name, number in result.parameters.items():
        typer.echo(f"{name:24} {number:>16,} parameters")
    typer.echo(f"{'speech tokens':24} {result.speech_tokens:>16,} for {seconds:g} s")
    typer.echo(f"{'tokens per utterance':24} {result.tokens_per_utterance:>16,}")
    for title, terms in (("training", result.training_gib), ("inference", result.inference_gib)):
        typer.echo(f"\n{title}, batch {batch_size}, {quantization or dtype} (rough)")
        for name, size in terms.items():
            typer.echo(f"  {name:24} {size:>10.2f} GiB")


def engine_files(name: str | None = None) -> list[Path]:
    """Return the configuration that ``accelerate launch --config_file`` takes; without a name, all of them.

    Raises:
        ConfigError: No engine has this name.
    """
    shipped = sorted(Path(str(files("aista.training") / "engines")).glob("*.yaml"))
    found = [path for path in shipped if name in (None, path.stem)]
    if not found:
        raise ConfigError(f"There is no engine {name!r}.", expected=", ".join(path.stem for path in shipped))
    return found


@app.command(
    epilog=examples(
        "aista engine                         (what there is)",
        "accelerate launch --config_file $(aista engine fsdp2) -m aista joint --config joint.yaml",
        "accelerate launch --config_file $(aista engine ddp) --num_processes 4 -m aista "
        "pretrain -c pretrain.yaml",
    )
)
def engine(
    name: Annotated[str | None, typer.Argument(help="ddp, fsdp2, deepspeed_zero2, deepspeed_zero3.")] = None,
) -> None:
    """Print the path of an engine's configuration; without a name, all of them."""
    for path in engine_files(name):
        typer.echo(path)
