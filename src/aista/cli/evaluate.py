"""``aista evaluate``: scores of a model on held-out manifests."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer()


@app.command(
    epilog="""Examples:

    aista evaluate --config evaluate.yaml

    aista evaluate --set model=runs/joint --set data=[test.jsonl] --set output=runs/joint/test

    aista evaluate --config evaluate.yaml --set generation.num_beams=4 --set output=runs/beams

    aista evaluate --config evaluate.yaml --json | jq .scores
"""
)
def evaluate(
    config: Annotated[str | None, typer.Option("--config", "-c", help="YAML file of settings.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting: dotted.key=value.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Score a model: BLEU with its signature, error rate, zero-shot text translation, alignment.

    Hypotheses and `results.json` lie in the `output` folder; run it again to go on where it stopped.
    """
    import json

    from rich.console import Console
    from rich.table import Table

    from aista.evaluation.evaluate import evaluate
    from aista.evaluation.settings import EvaluateSettings

    results = evaluate(EvaluateSettings.load(config, overrides or []))
    if as_json:
        typer.echo(json.dumps(results, ensure_ascii=False, indent=1))
        return
    table = Table("measure", *results["by_set"], "all", title=results["model"])
    for measure, value in results["scores"].items():
        cells = [results["by_set"][name]["scores"].get(measure) for name in results["by_set"]]
        table.add_row(measure, *("" if cell is None else f"{cell:.2f}" for cell in [*cells, value]))
    Console().print(table)
    for measure, signature in results["signatures"].items():
        typer.echo(f"{measure}: {signature}")
    for warning in results["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
