"""``aista joint``: stage 3 (paper 4.3)."""

from __future__ import annotations

import typer

from aista.cli.options import Bases, Config, Overrides

app = typer.Typer()


@app.command(
    epilog="""Examples:

    aista joint --config joint.yaml

    aista joint --config joint.yaml --set alignment.method=none --set output=runs/base

    aista joint --config joint.yaml --set alignment.layers=[0,1] --set alignment.alpha=0.9

    aista joint --config joint.yaml --set init=Qwen/Qwen2.5-Omni-7B --set lora.r=16      (any speech LLM)
"""
)
def joint(
    config: Config = None,
    overrides: Overrides = [],  # noqa: B006
    bases: Bases = [],  # noqa: B006
) -> None:
    """Train translation and alignment together (Eq. 6), from a stage-1 model or any speech LLM.

    Run it again to go on where it stopped. The finished model is in the `output` folder.
    """
    from aista.config import JointSettings
    from aista.training.stages import joint

    run = joint(JointSettings.load(config, overrides))
    best = run.best_token_accuracy
    told = "no validation" if best is None else f"token accuracy {best:.1%}"
    typer.echo(f"{run.folder}: {run.steps} steps in {run.seconds:.0f} s, {told}")
