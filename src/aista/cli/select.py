"""``aista select``: stage 2 (paper 4.2)."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer()


@app.command(
    epilog="""Examples:

    aista select --config select.yaml

    aista select --config select.yaml --set num_pairs=200 --set threshold_times_chance=6.7
"""
)
def select(
    config: Annotated[str, typer.Option("--config", "-c", help="YAML file of settings.")],
    overrides: Annotated[list[str], typer.Option("--set", help="Override a setting: dotted.key=value.")] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Choose the layers to align by speech-to-text retrieval at every layer (Eq. 3-5)."""
    from rich.console import Console
    from rich.table import Table

    from aista.config import SelectSettings
    from aista.selection.select import select

    report = select(SelectSettings.load(config, overrides))
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
        return
    table = Table("layer", "MRR", "shuffled", "mean W", "selected", title=f"{report.num_pairs} pairs")
    for row in report.rows:
        shuffled = "" if row.shuffled_mrr is None else f"{row.shuffled_mrr:.4f}"
        table.add_row(
            str(row.layer), f"{row.mrr:.4f}", shuffled, f"{row.mean_distance:.4g}", "yes" * row.selected
        )
    Console().print(table)
    typer.echo(
        f"threshold {report.threshold:.4f}, chance {report.chance_mrr:.4f}, selected {report.selected}"
    )
