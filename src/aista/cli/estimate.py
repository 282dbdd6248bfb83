"""``aista estimate``: how large a model is, and what it needs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from aista.model.configuration import AistaConfig

app = typer.Typer()


@app.command(
    epilog="""Examples:

    aista estimate --preset qwen2-7b --batch-size 8

    aista estimate --config pretrain.yaml --seconds 12 --quantization 4bit --json
"""
)
def estimate(
    config: Annotated[str | None, typer.Option("--config", "-c", help="YAML file of stage 1.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="The paper's set-up on vicuna-13b, vicuna-7b or qwen2-7b.")
    ] = None,
    overrides: Annotated[list[str], typer.Option("--set", help="Override a setting: dotted.key=value.")] = [],  # noqa: B006
    batch_size: Annotated[int, typer.Option(min=1, help="Utterances per step.")] = 8,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of an utterance.")] = 30.0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    quantization: Annotated[str | None, typer.Option(help="4bit or 8bit.")] = None,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Recompute activations in the backward pass.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count parameters, tokens and memory of a model without its weights."""
    from aista.errors import ConfigError
    from aista.model.estimate import estimate as run
    from aista.model.estimate import preset as by_name

    if (config is None) == (preset is None):
        raise ConfigError("Give either --config or --preset.", advice="aista estimate --preset qwen2-7b")
    if dtype not in ("float32", "bfloat16", "float16") or quantization not in (None, "4bit", "8bit"):
        raise ConfigError("Unknown --dtype or --quantization.", got=f"{dtype}, {quantization}")
    model = by_name(preset) if preset else _configured(str(config), overrides)
    result = run(
        model,
        batch_size=batch_size,
        seconds=seconds,
        dtype=dtype,
        quantization=quantization,
        checkpointing=checkpointing,
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


def _configured(path: str, overrides: list[str]) -> AistaConfig:
    from aista.config import PretrainSettings
    from aista.errors import ConfigError
    from aista.model.loading import configure

    settings = PretrainSettings.load(path, overrides).model
    if settings is None:
        raise ConfigError(
            "There is nothing to estimate in settings that start from a saved model.",
            expected="model: the bases and shapes of a new one",
        )
    return configure(
        settings.speech_encoder,
        settings.backbone,
        settings.audio_encoder,
        qformer=settings.qformer.model_dump(),
        lora=settings.lora.model_dump(),
        speech_tokens=settings.speech_tokens,
        speech_window_seconds=settings.speech_window_seconds,
        template=settings.template,
    )
