"""``aista engine``: where the configurations for ``accelerate launch`` are."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer()


@app.command(
    epilog="""Examples:

    aista engine                         (what there is)

    accelerate launch --config_file $(aista engine fsdp2) -m aista joint --config joint.yaml

    accelerate launch --config_file $(aista engine ddp) --num_processes 4 -m aista pretrain -c pretrain.yaml
"""
)
def engine(
    name: Annotated[str | None, typer.Argument(help="ddp, fsdp2, deepspeed_zero2, deepspeed_zero3.")] = None,
) -> None:
    """Print the path of an engine's configuration; without a name, all of them."""
    from aista.training.engines import engine_file, names

    for each in [name] if name else names():
        typer.echo(engine_file(each))
