"""``aista pretrain``: stage 1 (paper 4.1)."""

from __future__ import annotations

import typer

from aista.cli.options import Bases, Config, Overrides

app = typer.Typer()


@app.command(
    epilog="""Examples:

    aista pretrain --config pretrain.yaml

    aista pretrain --config pretrain.yaml --set train.max_steps=2000 --set output=runs/quick

    aista pretrain --config pretrain.yaml --set init=runs/aligned --set model=null

    aista pretrain --config pretrain.yaml --set model=null --set init=Qwen/Qwen2-Audio-7B-Instruct

    torchrun --nproc-per-node 8 -m aista pretrain --config pretrain.yaml
"""
)
def pretrain(
    config: Config = None,
    overrides: Overrides = [],  # noqa: B006
    bases: Bases = [],  # noqa: B006
) -> None:
    """Train the adapters on speech recognition and audio captioning.

    Run it again to go on where it stopped. The finished model is in the `output` folder.
    """
    from aista.config import PretrainSettings
    from aista.training.stages import pretrain

    run = pretrain(PretrainSettings.load(config, overrides))
    best = run.best_token_accuracy
    told = "no validation" if best is None else f"token accuracy {best:.1%}"
    typer.echo(f"{run.folder}: {run.steps} steps in {run.seconds:.0f} s, {told}")
