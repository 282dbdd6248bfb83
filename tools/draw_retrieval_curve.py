"""The figure and the tables of docs/findings/retrieval-curve.md from the rows of tools/retrieval_curve.py.

python tools/draw_retrieval_curve.py docs/results/base/curve.jsonl docs/findings/retrieval-curve.svg
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

COSTS = {
    "squared_euclidean": ("#c8553d", "-", "squared Euclidean (the paper's)"),
    "cosine": ("#3b6ea5", "-", "cosine"),
    "standardised": ("#5a8f5a", "--", "standardised"),
}
PROMPTS = {
    "none": "nothing",
    "one": "1 token",
    "three": "3 tokens",
    "salmonn": "SALMONN's",
    "system_user": "system + user",
    "qwen2_audio": "Qwen2-Audio's",
}


def main() -> None:
    """Draw the figure and print the tables."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    rows = [json.loads(line) for line in source.read_text().strip().split("\n")]
    draw(rows, target)
    for cloud in ("span", "whole"):
        for ear in sorted({row["ear"] for row in rows}):
            print_table(
                [row for row in rows if row["cloud"] == cloud and row["ear"] == ear], f"{ear}, {cloud}"
            )


def draw(rows: list[dict[str, Any]], target: Path) -> None:
    """One panel a prompt and cloud; each line is the mean over the aligned ears, the band their range."""
    aligned = [row for row in rows if row["ear"].startswith("aligned")]
    prompts = [prompt for prompt in PROMPTS if any(row["prompt"] == prompt for row in aligned)]
    clouds = [cloud for cloud in ("span", "whole") if any(row["cloud"] == cloud for row in aligned)]
    figure = Figure(figsize=(2.4 * len(prompts) + 0.4, 2.5 * len(clouds) + 0.7), layout="constrained")
    panels = figure.subplots(len(clouds), len(prompts), sharex=True, sharey=True, squeeze=False)
    for line, cloud in zip(panels, clouds, strict=True):
        for axes, prompt in zip(line, prompts, strict=True):
            panel(axes, [row for row in aligned if (row["prompt"], row["cloud"]) == (prompt, cloud)])
            axes.set_title(
                f"{PROMPTS[prompt]} before the span" if cloud == "span" else "whole sequence", fontsize=8
            )
    for axes in panels[-1]:
        axes.set_xlabel("layer", fontsize=8)
    for axes in panels[:, 0]:
        axes.set_ylabel("MRR", fontsize=8)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    figure.savefig(target)


def panel(axes: Any, rows: list[dict[str, Any]]) -> None:
    """MRR by layer under every cost, chance, and what lengths alone give."""
    for cost, (colour, style, label) in COSTS.items():
        by_layer: dict[int, list[float]] = defaultdict(list)
        for row in rows:
            if row["cost"] == cost:
                by_layer[row["layer"]].append(row["mrr"])
        layers = sorted(by_layer)
        axes.plot(
            layers,
            [mean(by_layer[k]) for k in layers],
            color=colour,
            linestyle=style,
            linewidth=1.4,
            label=label,
        )
        low, high = ([end(by_layer[k]) for k in layers] for end in (min, max))
        axes.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)
    if rows:
        axes.axhline(
            rows[0]["length_only_mrr"], color="#555555", linestyle="-.", linewidth=0.9, label="lengths alone"
        )
        axes.axhline(rows[0]["chance_mrr"], color="#555555", linestyle=":", linewidth=0.9, label="chance")
    axes.set_ylim(0, 1.02)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """MRR by the paper's cost / cosine / standardised, one line a prompt."""
    if not rows:
        return
    layers = sorted({row["layer"] for row in rows})
    found = {(row["prompt"], row["layer"], row["cost"]): row for row in rows}
    print(f"\n{title}: MRR squared / cosine / standardised; massive tokens speech / text at layer 6")
    print("| before the span | " + " | ".join(map(str, layers)) + " | massive | lengths |")
    print("|---" * (len(layers) + 3) + "|")
    for prompt, name in PROMPTS.items():
        if (prompt, layers[0], "cosine") not in found:
            continue
        cells = ["/".join(f"{found[prompt, k, cost]['mrr']:.2f}"
                          for cost in COSTS) for k in layers]  # fmt: skip
        at = found[prompt, 6 if 6 in layers else layers[-1], "cosine"]
        massive = f"{at['speech_massive_tokens']:.2f} / {at['text_massive_tokens']:.2f}"
        print(f"| {name} | " + " | ".join(cells) + f" | {massive} | {at['length_only_mrr']:.2f} |")


if __name__ == "__main__":
    main()
