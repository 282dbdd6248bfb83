"""``aista align``, ``pretrain``, ``select``, ``joint``: the paper's stages (4.1 to 4.3), and one before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from aista.cli import AsJson, Bases, Config, Overrides, examples, goes_on

if TYPE_CHECKING:
    from aista.training.stages import Run

app = typer.Typer()


def _tell(run: Run, reached: str) -> None:
    typer.echo(f"{run.folder}: {run.steps} steps in {run.seconds:.0f} s{reached}")


def _accuracy(run: Run) -> str:
    best = run.best_token_accuracy
    return ", no validation" if best is None else f", token accuracy {best:.1%}"


@app.command(
    epilog=examples(
        "aista align --config align.yaml",
        "aista align --config align.yaml --set train.max_steps=150 --set output=runs/quick",
        'aista align --config align.yaml --set "alignment.options={similarity: maxsim}"',
        "aista align --config align.yaml --set alignment.method=retrieval_ctc",
        'aista align --config align.yaml --set "alignment.layers=[0, 4, 8]"',
        "aista pretrain --config pretrain.yaml --set init=runs/aligned --set model=null",
    )
)
@goes_on()
def align(config: Config = None, overrides: Overrides = [], bases: Bases = []) -> None:
    """Bring speech tokens to where the backbone's text lies, without running the language model.

    The Q-Former and the projection learn to let speech find its own transcript among those of the batch. The
    bar shows the mean reciprocal rank of the held-out pairs (1 is perfect), and of a method that can be read
    (ctc, retrieval_ctc) the share of tokens that was read rightly. Run it again to go on where it stopped.
    The finished model is where `aista pretrain` starts from: `--set init=FOLDER`.
    """
    from aista.config import AlignSettings
    from aista.training.stages import align

    run = align(AlignSettings.load(config, overrides))
    _tell(run, _accuracy(run) if run.best_mrr is None else f", held-out MRR {run.best_mrr:.3f}")


@app.command(
    epilog=examples(
        "aista pretrain --config pretrain.yaml",
        "aista pretrain --config pretrain.yaml --set train.max_steps=2000 --set output=runs/quick",
        "aista pretrain --config pretrain.yaml --set init=runs/aligned --set model=null",
        "aista pretrain --config pretrain.yaml --set model=null --set init=Qwen/Qwen2-Audio-7B-Instruct",
        "torchrun --nproc-per-node 8 -m aista pretrain --config pretrain.yaml",
    )
)
@goes_on()
def pretrain(config: Config = None, overrides: Overrides = [], bases: Bases = []) -> None:
    """Train the adapters on speech recognition and audio captioning.

    Run it again to go on where it stopped. The finished model is in the `output` folder.
    """
    from aista.config import PretrainSettings
    from aista.training.stages import pretrain

    run = pretrain(PretrainSettings.load(config, overrides))
    _tell(run, _accuracy(run))


@app.command(
    epilog=examples(
        "aista select --config select.yaml",
        "aista select --config select.yaml --set num_pairs=200 --set threshold_times_chance=6.7",
        "aista select --config select.yaml --set cost=cosine",
        "aista select --set model=runs/stage1 --set data=[dev.jsonl] --set output=runs/select",
        "aista select --set model=Qwen/Qwen2.5-Omni-7B --set data=[dev.jsonl] --set output=runs/omni/select",
    )
)
@goes_on()
def select(
    config: Config = None, overrides: Overrides = [], as_json: AsJson = False, bases: Bases = []
) -> None:
    """Choose the layers to align by speech-to-text retrieval at every layer (Eq. 3-5)."""
    from rich.console import Console
    from rich.markup import escape
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
    console = Console(emoji=False)
    console.print(table)
    for warning in report.warnings:
        console.print(f"[yellow]{escape(warning)}")
    if (by_length := report.rows[0].length_only) is not None:
        typer.echo(f"MRR by the numbers of tokens alone {by_length:.4f}")
    typer.echo(
        f"threshold {report.threshold:.4f}, chance {report.chance_mrr:.4f}, selected {report.selected}"
    )


@app.command(
    epilog=examples(
        "aista joint --config joint.yaml",
        "aista joint --config joint.yaml --set alignment.method=none --set output=runs/base",
        "aista joint --config joint.yaml --set alignment.layers=[0,1] --set alignment.alpha=0.9",
        "aista joint --config joint.yaml --set init=Qwen/Qwen2.5-Omni-7B --set lora.r=16     "
        " (any speech LLM)",
    )
)
@goes_on()
def joint(config: Config = None, overrides: Overrides = [], bases: Bases = []) -> None:
    """Train translation and alignment together (Eq. 6), from a stage-1 model or any speech LLM.

    Run it again to go on where it stopped. The finished model is in the `output` folder.
    """
    from aista.config import JointSettings
    from aista.training.stages import joint

    run = joint(JointSettings.load(config, overrides))
    _tell(run, _accuracy(run))
