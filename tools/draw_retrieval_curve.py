"""The figure and the tables of docs/findings/retrieval-curve.md from the rows of tools/retrieval_curve.py.

python tools/draw_retrieval_curve.py docs/results/base/curve.jsonl docs/findings/retrieval-curve.svg
python tools/draw_retrieval_curve.py docs/results/base/curve1000.jsonl docs/findings/curve-1000.svg reads

The words behind the paths name the groups of ears that are drawn, a name up to its "-"; else all are.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from aista.figures import WIDE, Canvas, colour

COSTS = {"squared_euclidean": "system", "cosine": "base", "standardised": "hue0"}
TITLES = {
    "squared_euclidean": "squared Euclidean (the paper's)",
    "cosine": "cosine",
    "standardised": "standardised",
}
PROMPTS = {
    "none": "nothing",
    "one": "1 token",
    "three": "3 tokens",
    "salmonn": "SALMONN's",
    "system_user": "system + user",
    "qwen2_audio": "Qwen2-Audio's",
}
CLOUDS = {"span": "the span alone", "sequence": "the whole sequence"}
EARS = {
    "aligned": "ears of 2,474 clips",
    "aligned5k": "ear of 5,074 clips",
    "reads": "ears that read",
    "base": "after 400 steps, base",
    "wasserstein": "after 400 steps, + Wasserstein",
}
_LEFT, _TOP, _HEIGHT, _ACROSS, _DOWN = 44, 64, 96, 12, 40
_TIMES_CHANCE = 6.7  # the paper's threshold 0.05 at 1,000 pairs
Rows = Sequence[dict[str, Any]]


def main() -> None:
    """Draw the figure and print the tables."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    rows = [json.loads(line) for line in source.read_text().strip().split("\n")]
    drawn = sys.argv[3:] or list(EARS)
    target.write_text(draw([row for row in rows if row["ear"].split("-")[0] in drawn]).standalone())
    for group in sorted({(row["backbone"], row["ear"].split("-")[0], row["cloud"]) for row in rows}):
        print_table([r for r in rows if (r["backbone"], r["ear"].split("-")[0], r["cloud"]) == group], group)


def draw(aligned: Rows) -> Canvas:
    """One panel a prompt, one line of panels a backbone and cloud; bands are the range over the ears."""
    prompts = [prompt for prompt in PROMPTS if any(row["prompt"] == prompt for row in aligned)]
    lines = sorted({_line(row) for row in aligned}, reverse=True)  # the span first
    canvas = Canvas(WIDE, _TOP + len(lines) * (_HEIGHT + _DOWN), "MRR by layer")
    costs = [cost for cost in COSTS if any(row["cost"] == cost for row in aligned)]
    for i, cost in enumerate(costs):
        left = _LEFT + (0, 230, 310)[i]
        canvas.dot(left + 5, 12, COSTS[cost])
        canvas.text(left + 15, 16, TITLES[cost], COSTS[cost])
    wide = (WIDE - _LEFT - 8) / len(prompts) - _ACROSS
    for i, prompt in enumerate(prompts):
        canvas.text(_LEFT + i * (wide + _ACROSS), 36, PROMPTS[prompt], "ink", font="small")
    for down, line in enumerate(lines):
        top = _TOP + down * (_HEIGHT + _DOWN)
        canvas.text(
            _LEFT, top - 8, ", ".join((line[0], EARS[line[2]], CLOUDS[line[1]])), "soft", font="small"
        )
        for across, prompt in enumerate(prompts):
            here = [row for row in aligned if (*_line(row), row["prompt"]) == (*line, prompt)]
            if here:
                panel(canvas, (_LEFT + across * (wide + _ACROSS), top, wide), here, first=across == 0)
    canvas.text(WIDE / 2, canvas.height - 4, "layer", anchor="center")
    return canvas


def _line(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["backbone"], row["cloud"], row["ear"].split("-")[0]


def panel(canvas: Canvas, place: tuple[float, float, float], rows: Rows, *, first: bool) -> None:
    """MRR by layer under every cost, and what chance and lengths alone give."""
    left, top, width = place
    last = max(row["layer"] for row in rows)
    area = canvas.axes(left, top, width, _HEIGHT, (0, last), (0, 1.02))
    area.set_xticks([0, last // 2, last], [str(k) for k in (0, last // 2, last)], fontsize=9)
    area.set_yticks([0, 0.5, 1], ["0", ".5", "1"] if first else [""] * 3, fontsize=9)
    area.yaxis.grid(True, color=colour("rule"), linewidth=1)
    for cost, role in COSTS.items():
        by_layer: dict[int, list[float]] = defaultdict(list)
        for row in rows:
            if row["cost"] == cost:
                by_layer[row["layer"]].append(row["mrr"])
        layers = sorted(by_layer)
        area.plot(layers, [fmean(by_layer[k]) for k in layers], color=colour(role), linewidth=1.6)
        low, high = ([end(by_layer[k]) for k in layers] for end in (min, max))
        area.fill_between(layers, low, high, color=colour(role), alpha=0.2, linewidth=0)
    for value, style in ((rows[0]["length_only_mrr"], (0, (4, 2))), (rows[0]["chance_mrr"], (0, (1, 2)))):
        area.axhline(value, color=colour("line"), linewidth=1.0, linestyle=style)


def print_table(rows: Rows, group: tuple[str, str, str]) -> None:
    """Mean MRR over the ears, one line a prompt and cost, and the layers that Eq. 5 would select."""
    layers = sorted({row["layer"] for row in rows})
    middle = 6 if 6 in layers else layers[len(layers) // 2]
    print(f"\n{', '.join(group)}: {rows[0]['num_pairs']} pairs")
    head = [
        "before the span (tokens)",
        "cost",
        *map(str, layers),
        "Eq. 5 selects",
        "massive, text / speech",
        "ears",
    ]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for prompt in (name for name in PROMPTS if any(row["prompt"] == name for row in rows)):
        for cost in COSTS:
            here = [row for row in rows if (row["prompt"], row["cost"]) == (prompt, cost)]
            if not here:
                continue
            values = {k: [row["mrr"] for row in here if row["layer"] == k] for k in layers}
            threshold = _TIMES_CHANCE * here[0]["chance_mrr"]
            chosen = [k for k in layers if fmean(values[k]) > threshold]
            at = [row for row in here if row["layer"] == middle]
            massive = [fmean(row[f"{side}_massive_tokens"] for row in at) for side in ("text", "speech")]
            cells = [
                f"{PROMPTS[prompt]} ({here[0]['prompt_tokens']})",
                TITLES[cost].split(" (")[0],
                *(f"{fmean(values[k]):.2f}".lstrip("0") for k in layers),
                "all" if chosen == layers else ", ".join(map(str, chosen)) or "none",
                " / ".join(f"{share:.2f}" for share in massive),
                f"{len({row['ear'] for row in here})}",
            ]
            print("| " + " | ".join(cells) + " |")
        spread = max(
            max(row["mrr"] for row in one) - min(row["mrr"] for row in one) for one in _by_ear(rows, prompt)
        )
        print(f"  (largest range over the ears, {PROMPTS[prompt]}: {spread:.2f})")


def _by_ear(rows: Rows, prompt: str) -> list[Rows]:
    groups: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["prompt"] == prompt:
            groups[row["layer"], row["cost"]].append(row)
    return list(groups.values())


if __name__ == "__main__":
    main()
