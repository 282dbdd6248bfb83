"""``aista select``: stage 2 (paper 4.2)."""

from __future__ import annotations

from typing import Annotated

import typer

from aista.cli.options import Bases, Config, Overrides

app = typer.Typer()


@app.command(
    epilog="""Examples:

    aista select --config select.yaml

    aista select --config select.yaml --set num_pairs=200 --set threshold_times_chance=6.7

    aista select --config select.yaml --set cost=cosine

    aista select --set model=runs/stage1 --set data=[dev.jsonl] --set output=runs/select

    aista select --set model=Qwen/Qwen2.5-Omni-7B --set data=[dev.jsonl] --set output=runs/omni/select
"""
)
def select(
    config: Config = None,
    overrides: Overrides = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    bases: Bases = [],  # noqa: B006
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
    others = [cost for cost in report.rows[0].mrr_by_cost if cost != report.cost]
    names = ("layer", "MRR", *others, "shuffled", "mean W", "massive tokens", "top 4 dimensions", "selected")
    table = Table(*names, title=f"{report.num_pairs} pairs, {report.cost} (speech / text)")
    for row in report.rows:
        table.add_row(
            str(row.layer),
            f"{row.mrr:.4f}",
            *(f"{row.mrr_by_cost[cost]:.4f}" for cost in others),
            "" if row.shuffled is None else f"{row.shuffled:.4f}",
            f"{row.mean_distance:.4g}",
            f"{row.massive_speech:.1%} / {row.massive_text:.1%}",
            f"{row.energy_top_dims_speech:.0%} / {row.energy_top_dims_text:.0%}",
            "yes" * row.selected,
        )
    console = Console()
    console.print(table)
    for warning in report.warnings:
        console.print(f"[yellow]{warning}")
    if (by_length := report.rows[0].length_only) is not None:
        typer.echo(f"MRR by the numbers of tokens alone {by_length:.4f}")
    typer.echo(
        f"threshold {report.threshold:.4f}, chance {report.chance_mrr:.4f}, selected {report.selected}"
    )
