"""``aista evaluate``: scores of a model, or of a baseline, on held-out manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aista.cli.options import Bases, Config, Overrides

app = typer.Typer()


@app.command(
    epilog="""Examples:

    aista evaluate --config evaluate.yaml

    aista evaluate --set model=runs/joint --data test.jsonl --output runs/joint/test

    aista evaluate --set model=Qwen/Qwen2.5-Omni-7B --data test.jsonl --output runs/omni/test

    aista evaluate --config evaluate.yaml --set generation.num_beams=4 --output runs/beams

    aista evaluate --config evaluate.yaml --json | jq .scores

    aista evaluate --baseline cascade --baseline-option asr=aista:whisper \\
        --baseline-option llm=aista:language_model --data test.jsonl --output runs/cascade

    aista evaluate --long-form --streaming --set model=runs/joint --data talks.jsonl --output runs/talks
"""
)
def evaluate(
    config: Config = None,
    overrides: Overrides = [],  # noqa: B006
    data: Annotated[list[Path] | None, typer.Option(help="A manifest; may be given several times.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the results.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Score this system in place of a model: see docs/guides/baselines.md.")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--baseline-option", help="An option of the baseline: key=value.")
    ] = None,
    long_form: Annotated[
        bool, typer.Option("--long-form", help="Whole recordings against the manifest's segments.")
    ] = False,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Recordings as streams: quality and delay, by OmniSTEval.")
    ] = False,
    chunk_seconds: Annotated[
        list[float] | None, typer.Option(help="With --streaming: chunk sizes.", show_default="0.5, 1, 2, 4")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    bases: Bases = [],  # noqa: B006
) -> None:
    """Score a model or a baseline: BLEU with its signature, error rate, zero-shot translation, alignment.

    Hypotheses and `results.json` lie in the `output` folder; run it again to go on where it stopped. Of a
    baseline, `--set generation.num_beams=4` and its like change the search, and `limit`, `measures` and
    `silence_check` can be set.
    """
    import json

    from aista.errors import ConfigError

    if options and baseline is None:
        raise ConfigError("--baseline-option needs --baseline NAME.", got=" ".join(options))
    given: dict[str, Any] = {"data": [str(path) for path in data]} if data else {}
    given |= {"output": str(output)} if output else {}
    changes = [*overrides, *(f"options.{option}" for option in options or [])]
    if long_form or streaming:
        settings, system = _system(config, changes, given, baseline)
        _recordings(settings, system, long_form, (chunk_seconds or [0.5, 1, 2, 4]) if streaming else [])
        return
    if baseline is None:
        results = _model(config, changes, given)
    else:
        results = _baseline(config, changes, {**given, "baseline": baseline})
    if as_json:
        typer.echo(json.dumps(results, ensure_ascii=False, indent=1))
    else:
        _show(results)


def _model(config: str | None, changes: list[str], given: dict[str, Any]) -> dict[str, Any]:
    from aista.evaluation.evaluate import evaluate
    from aista.evaluation.settings import EvaluateSettings

    return evaluate(EvaluateSettings.load(config, changes, given))


def _system(
    config: str | None, changes: list[str], given: dict[str, Any], name: str | None
) -> tuple[Any, Any]:
    """Return the settings and the loaded system: a model, or a baseline by its name."""
    from aista.baselines import baseline
    from aista.evaluation.settings import BaselineSettings, EvaluateSettings
    from aista.inference.translator import load

    if name is None:
        ours = EvaluateSettings.load(config, changes, given)
        return ours, load(ours.model, **ours.generation.model_dump())
    settings = BaselineSettings.load(config, changes, {**given, "baseline": name})
    return settings, baseline(settings.baseline, generation=settings.generation, **settings.options)


def _recordings(settings: Any, system: Any, whole: bool, chunk_seconds: list[float]) -> None:
    """Score whole recordings, as they are or as streams, and print the scores."""
    import json

    from aista.evaluation import long_form

    output, found = Path(settings.output), long_form.talks(settings.data, settings.limit)
    output.mkdir(parents=True, exist_ok=True)
    if whole:
        typer.echo(json.dumps(long_form.long_form(system, found, output)["scores"], indent=1))
    if chunk_seconds:
        scores = long_form.streaming(system, found, output, chunk_seconds)["by_chunk_seconds"]
        typer.echo(json.dumps(scores, indent=1))


def _baseline(config: str | None, changes: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """Load a baseline and score it."""
    from transformers.utils.logging import disable_progress_bar

    from aista.baselines import baseline
    from aista.data.manifest import Manifest
    from aista.evaluation.evaluate import score
    from aista.evaluation.settings import BaselineSettings

    disable_progress_bar()
    settings = BaselineSettings.load(config, changes, given)
    for path in settings.data:  # what is not there is told before gigabytes are loaded
        Manifest(path)
    system = baseline(settings.baseline, generation=settings.generation, **settings.options)
    try:
        return score(system, settings, system.card)
    finally:
        system.close()


def _show(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("measure", *results["by_set"], "all", "rows", "cut", title=results["model"])
    for measure, value in results["scores"].items():
        cells = [results["by_set"][name]["scores"].get(measure) for name in results["by_set"]]
        values = ("" if cell is None else f"{cell:.2f}" for cell in [*cells, value])
        counts = (str(results.get(key, {}).get(measure, "")) for key in ("num_scored", "num_unfinished"))
        table.add_row(measure, *values, *counts)
    Console().print(table)
    for measure, signature in results["signatures"].items():
        typer.echo(f"{measure}: {signature}")
    for warning in results["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
