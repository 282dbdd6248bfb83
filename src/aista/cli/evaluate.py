"""``aista evaluate``: scores of a model, or of a baseline, on held-out manifests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aista.cli import AsJson, Bases, Config, Overrides, examples, goes_on
from aista.errors import ConfigError

if TYPE_CHECKING:
    from aista.evaluation.evaluate import BaselineSettings, EvaluateSettings
    from aista.evaluation.metrics import Comet

app = typer.Typer()


@app.command(
    epilog=examples(
        "aista evaluate --config evaluate.yaml",
        "aista evaluate --set model=runs/joint --data test.jsonl --output runs/joint/test",
        "aista evaluate --set model=Qwen/Qwen2.5-Omni-7B --data test.jsonl --output runs/omni/test",
        "aista evaluate --config evaluate.yaml --set generation.num_beams=4 --output runs/beams",
        "aista evaluate --config evaluate.yaml --json | jq .scores",
        "aista evaluate --baseline cascade --baseline-option asr=aista:whisper \\\n"
        "        --baseline-option llm=aista:language_model --data test.jsonl --output runs/cascade",
        "aista evaluate --config evaluate.yaml --comet models/wmt22-comet-da",
        "aista evaluate --long-form --streaming --set model=runs/joint --data talks.jsonl "
        "--output runs/talks",
    )
)
@goes_on()
def evaluate(
    config: Config = None,
    overrides: Overrides = [],
    data: Annotated[list[str], typer.Option(help="A manifest; may be given several times.")] = [],
    output: Annotated[str | None, typer.Option(help="Folder of the results.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Score this system in place of a model: see docs/guides/baselines.md.")
    ] = None,
    options: Annotated[
        list[str], typer.Option("--baseline-option", help="An option of the baseline: key=value.")
    ] = [],
    long_form: Annotated[
        bool, typer.Option("--long-form", help="Whole recordings against the manifest's segments.")
    ] = False,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Recordings as streams: quality and delay, by OmniSTEval.")
    ] = False,
    chunk_seconds: Annotated[
        list[float] | None,
        typer.Option(min=0.1, help="With --streaming: chunk sizes.", show_default="0.5, 1, 2, 4"),
    ] = None,
    comet: Annotated[
        str | None,
        typer.Option(help="Score with COMET too: a folder, checkpoint or id at hand (unbabel-comet)."),
    ] = None,
    as_json: AsJson = False,
    bases: Bases = [],
) -> None:
    """Score a model or a baseline: BLEU with its signature, error rate, zero-shot translation, alignment.

    Hypotheses and `results.json` lie in the `output` folder; run it again to go on where it stopped (with
    `--long-form` and `--streaming`, finished recordings are kept). Of a baseline,
    `--set generation.num_beams=4` and its like change the search, and `limit`, `measures` and
    `silence_check` can be set.
    """
    from transformers.utils.logging import disable_progress_bar

    from aista.evaluation.evaluate import BaselineSettings, EvaluateSettings, evaluate, score
    from aista.evaluation.metrics import Comet
    from aista.evaluation.results import add_comet
    from aista.settings_text import read_settings

    is_baseline = bool(baseline) or (config is not None and "baseline" in read_settings(Path(config)))
    if options and not is_baseline:
        raise ConfigError("--baseline-option needs --baseline NAME.", got=" ".join(options))
    if chunk_seconds and not streaming:
        raise ConfigError("--chunk-seconds needs --streaming.", got=" ".join(map(str, chunk_seconds)))
    if comet and streaming and not long_form:
        raise ConfigError("--streaming is not scored with COMET.", got=comet, advice="Add --long-form.")
    scorer = Comet(comet) if comet else None  # what is not installed is told first
    given = {"data": data, "output": output, "baseline": baseline}
    kind: type[EvaluateSettings | BaselineSettings] = BaselineSettings if is_baseline else EvaluateSettings
    settings = kind.load(
        config,
        [*overrides, *(f"options.{option}" for option in options)],
        {name: value for name, value in given.items() if value},
    )
    if long_form or streaming:
        chunks = (chunk_seconds or [0.5, 1, 2, 4]) if streaming else []
        _recordings(settings, long_form, chunks, scorer)
        return
    if isinstance(settings, EvaluateSettings):
        results = evaluate(settings)
    else:
        disable_progress_bar()
        system = _system(settings)
        try:
            results = score(system, settings, system.card)
        finally:
            system.close()
    if scorer:
        results = add_comet(Path(settings.output), scorer)
    if as_json:
        typer.echo(json.dumps(results, ensure_ascii=False, indent=1))
    else:
        _show(results)


def _system(settings: EvaluateSettings | BaselineSettings) -> Any:
    """Load what is scored: a model, or a baseline by its name."""
    from aista.baselines import baseline
    from aista.data.manifest import Manifest
    from aista.evaluation.evaluate import EvaluateSettings
    from aista.inference.translator import load

    if isinstance(settings, EvaluateSettings):
        return load(settings.model, dtype=settings.dtype, **settings.generation.model_dump())
    for path in settings.data:  # what is not there is told before gigabytes are loaded
        Manifest(path)
    return baseline(settings.baseline, generation=settings.generation, **settings.options)


def _recordings(
    settings: EvaluateSettings | BaselineSettings,
    whole: bool,
    chunk_seconds: list[float],
    comet: Comet | None,
) -> None:
    """Score whole recordings, as they are or as streams, and print the scores."""
    from aista.evaluation import long_form
    from aista.run_folder import inputs_of

    if whole:  # what is not installed is told before hours of work
        long_form.demand("mweralign")
    if chunk_seconds:
        long_form.demand("omnisteval")
    output, found = Path(settings.output), long_form.talks(settings.data, settings.limit)
    system = _system(settings)
    system.vad = True  # a baseline, too, looks for speech in a recording
    try:
        about = [inputs_of(settings), getattr(settings, "dtype", None), getattr(system, "card", None)]
        if asked := settings.model_dump(mode="json", include={"baseline", "options"}):
            about.append(asked)
        made_by = json.dumps(about, sort_keys=True)
        if whole:
            results = long_form.long_form(system, found, output, comet, made_by)
            typer.echo(json.dumps(results["scores"], indent=1))
            _warn(results)
        if chunk_seconds:
            results = long_form.streaming(system, found, output, chunk_seconds, made_by)
            typer.echo(json.dumps(results["by_chunk_seconds"], indent=1))
            _warn(results)
    finally:
        system.close()


def _show(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    sets, title = map(escape, results["by_set"]), escape(results["model"])
    table = Table("measure", *sets, "all", "rows", "cut", title=title)
    for measure, value in results["scores"].items():
        cells = [results["by_set"][name]["scores"].get(measure) for name in results["by_set"]]
        values = ("" if cell is None else f"{cell:.2f}" for cell in [*cells, value])
        counts = (str(results.get(key, {}).get(measure, "")) for key in ("num_scored", "num_unfinished"))
        table.add_row(measure, *values, *counts)
    Console(emoji=False).print(table)
    for measure, signature in results["signatures"].items():
        typer.echo(f"{measure}: {signature}")
    _warn(results)


def _warn(results: dict[str, Any]) -> None:
    for warning in results["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
