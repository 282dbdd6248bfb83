"""``aista probe``: where any speech LLM holds speech close to its text."""

from __future__ import annotations

from typing import Annotated

import typer

from aista.cli import Bases, examples, goes_on

app = typer.Typer()


@app.command(
    epilog=examples(
        "aista probe Qwen/Qwen2-Audio-7B-Instruct --data pairs.jsonl --output probe --dtype bfloat16",
        "aista probe aista:model --data pairs.jsonl --output probe --cost squared_euclidean --cost cosine",
        "aista probe mistralai/Voxtral-Mini-3B-2507 runs/joint --data pairs.jsonl --output "
        "both --num-pairs 200",
        "aista probe runs/stage1 --data pairs.jsonl --output prompts --prompt own --prompt "
        'none --prompt "USER: "',
    )
)
@goes_on()
def probe(
    models: Annotated[list[str], typer.Argument(help="Ids or folders of speech LLMs.", show_default=False)],
    data: Annotated[list[str], typer.Option(help="Manifest of recordings with transcripts (repeatable).")],
    output: Annotated[str, typer.Option(help="Folder of the report.")],
    cost: Annotated[
        list[str], typer.Option(help="squared_euclidean, cosine or standardised (repeatable).")
    ] = ["squared_euclidean"],
    cloud: Annotated[
        list[str], typer.Option(help="Positions that are compared: span or sequence (repeatable).")
    ] = ["span"],
    prompt: Annotated[
        list[str],
        typer.Option(
            help="What stands before the speech: own (the chat template), none, or a text (repeatable)."
        ),
    ] = ["own"],
    num_pairs: Annotated[int, typer.Option(help="At most so many clips are drawn.")] = 1_000,
    max_seconds: Annotated[float | None, typer.Option(help="Longer clips are not drawn.")] = None,
    plan: Annotated[
        list[str], typer.Option(help="Id of a pair whose transport plan is shown (repeatable).")
    ] = [],
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    quantization: Annotated[str | None, typer.Option(help="4bit or 8bit.")] = None,
    batch_size: Annotated[int, typer.Option(help="Clips at a time.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 42,
    bases: Bases = [],
) -> None:
    """Measure at every layer how well speech finds its own transcript, of any speech LLM.

    Writes probe.json (a row for each model, layer, cost, cloud and prompt), probe.svg and probe.png (the
    paper's Figure 4), plans.json, and probe.html, a page that needs nothing else. Nothing is trained. Run it
    again to go on where it stopped.
    """
    from itertools import groupby

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from aista import processes
    from aista.config import ProbeSettings
    from aista.experiments.probe_page import write_pages
    from aista.selection.probe import probe

    settings = ProbeSettings.of({
        "models": models, "data": data, "output": output, "costs": cost, "clouds": cloud, "prompts": prompt,
        "num_pairs": num_pairs, "max_seconds": max_seconds, "plans": plan, "dtype": dtype,
        "quantization": quantization, "batch_size": batch_size, "seed": seed,
    }, source="the command line")  # fmt: skip
    found = probe(settings)
    processes.by_main(lambda: write_pages(output))
    console = Console(emoji=False)
    for each in found:
        for (given, compared, by), rows in groupby(
            each.rows, key=lambda row: (row.prompt, row.cloud, row.cost)
        ):
            about = f"{each.model}: {by}, {compared}, prompt {given}"
            names = ("layer", "MRR", "back", "shuffled", "mean W", "norms", "massive")
            table = Table(*names, title=escape(f"{about} (speech / text)"))
            for row in rows:
                table.add_row(
                    str(row.layer), f"{row.mrr:.4f}", f"{row.mrr_text_to_speech:.4f}", f"{row.shuffled:.4f}",
                    f"{row.mean_distance:.4g}", f"{row.norm_speech:.3g} / {row.norm_text:.3g}",
                    f"{row.massive_speech:.0%} / {row.massive_text:.0%}",
                )  # fmt: skip
            console.print(table)
        first = each.rows[0]
        typer.echo(
            f"{first.num_pairs} pairs: chance {first.chance:.4f}, by lengths alone {first.length_only:.4f}"
        )
        for warning in each.warnings:
            console.print(f"[yellow]{escape(warning)}", highlight=False)
    typer.echo(f"{output}/probe.html")
