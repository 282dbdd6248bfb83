"""``aista align``: alignment first, before stage 1."""

from __future__ import annotations

import typer

from aista.cli.options import Bases, Config, Overrides

app = typer.Typer()


@app.command(
    epilog="""Examples:

    aista align --config align.yaml

    aista align --config align.yaml --set train.max_steps=150 --set output=runs/quick

    aista align --config align.yaml --set "alignment.options={similarity: maxsim}"

    aista align --config align.yaml --set "alignment.layers=[0, 4, 8]"

    aista pretrain --config pretrain.yaml --set init=runs/aligned --set model=null
"""
)
def align(
    config: Config = None,
    overrides: Overrides = [],  # noqa: B006
    bases: Bases = [],  # noqa: B006
) -> None:
    """Bring speech tokens to where the backbone's text lies, without running the language model.

    The Q-Former and the projection learn to let speech find its own transcript among those of the batch. The
    bar shows the mean reciprocal rank of the held-out pairs (1 is perfect). Run it again to go on where it
    stopped. The finished model is where `aista pretrain` starts from: `--set init=FOLDER`.
    """
    from aista.config import AlignSettings
    from aista.training.align import align

    run = align(AlignSettings.load(config, overrides))
    reached = "" if run.best_mrr is None else f", held-out MRR {run.best_mrr:.3f}"
    typer.echo(f"{run.folder}: {run.steps} steps in {run.seconds:.0f} s{reached}")
