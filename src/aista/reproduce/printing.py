"""The figures as PNG through matplotlib, for LaTeX: the same stored numbers, on white."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

Data = Mapping[str, Any]

_COLOURS = {
    "base": "#4f6d8f",
    "ai_sta": "#b4532a",
    "ctc": "#2f7d72",
    "contrastive": "#7d5c99",
    "distillation": "#9a7413",
}
_ORDER = ("#2f7d72", "#7d5c99", "#9a7413", "#8a4b63")
_GREY = "#8a8478"
_RESOLUTION = 200


def png(name: str, data: Data) -> str:
    """Return a figure as PNG in base64, or nothing for one that is not printed here."""
    if name not in _PRINTS:
        return ""
    figure = _PRINTS[name](data)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_RESOLUTION)
    return base64.b64encode(out.getvalue()).decode()


def _plain(figure: Figure) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)


def _retrieval(data: Data) -> Figure:
    figure = Figure(figsize=(6.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for line, colour in zip(data["lines"], _ORDER, strict=False):
        layers = range(len(line["mrr"]))
        axes.plot(
            layers,
            line["mrr"],
            color=colour,
            marker="o",
            markersize=4,
            markerfacecolor="white",
            label=line["title"],
        )
        axes.fill_between(layers, line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)
        chosen = line["selected"]
        axes.plot(chosen, [line["mrr"][i] for i in chosen], "o", color=colour, markersize=5)
    for key, style in (("threshold", "--"), ("chance", ":")):
        for value in sorted({round(line[key], 5) for line in data["lines"]}):
            axes.axhline(value, color=_GREY, linestyle=style, linewidth=1, label=f"{key} {value:.3f}")
    axes.set(xlabel="layer", ylabel="mean reciprocal rank", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    _plain(figure)
    return figure


def _maps(data: Data) -> Figure:
    panels = data["panels"]
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(6.2, 3.2 * rows), layout="constrained")
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, 2, number + 1)
        for kind, colour in (("text", _GREY), ("speech", _COLOURS.get(panel["system"], _ORDER[0]))):
            for pieces in panel["contours"][kind]:
                for piece in pieces:
                    axes.plot(*zip(*piece, strict=True), color=colour, linewidth=0.8, alpha=0.7)
            x, y = zip(*panel[kind], strict=True)
            axes.scatter(x, y, s=4, color=colour, alpha=0.5, linewidths=0, label=kind)
        left, right, lower, upper = data["bounds"][panel["backbone"]]
        axes.set(xlim=(left, right), ylim=(lower, upper), xticks=[], yticks=[])
        axes.set_title(panel["title"], fontsize=9)
        axes.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def _correlation(data: Data) -> Figure:
    panels: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in data["rows"]:
        panels[row["panel"]].append(row)
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(6.2, 2.9 * rows), layout="constrained")
    seen: dict[str, Any] = {}
    for number, (title, points) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, 2, number + 1)
        for system in dict.fromkeys(row["system"] for row in points):
            mine = [row for row in points if row["system"] == system]
            hollow = system not in _COLOURS
            colour = _COLOURS.get(system, _GREY)
            seen[mine[0]["title"]] = axes.scatter(
                [row["log_wasserstein"] for row in mine], [row["bleu"] for row in mine], s=22,
                facecolors="none" if hollow else colour, edgecolors=colour,
            )  # fmt: skip
        axes.set(xlabel="log Wasserstein", ylabel="BLEU")
        axes.set_title(title, fontsize=9)
    _plain(figure)
    figure.legend(
        list(seen.values()), list(seen), loc="outside lower center", ncols=3, frameon=False, fontsize=7
    )
    return figure


def _differences(data: Data) -> Figure:
    panels = data["counts"]
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(6.2, 1.9 * rows), layout="constrained")
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, 2, number + 1)
        edges = panel["edges"]
        colours = [_COLOURS["ai_sta" if low >= 0 else "base"] for low in edges[:-1]]
        axes.bar(
            edges[:-1], panel["histogram"], width=edges[1] - edges[0], align="edge", color=colours, alpha=0.8
        )
        axes.set_title(
            f"{panel['panel']}: {panel['num_worse']} worse, {panel['num_better']} better", fontsize=8
        )
        axes.set_xlabel("change in chrF2", fontsize=8)
    _plain(figure)
    return figure


_PRINTS: Mapping[str, Callable[[Data], Figure]] = {
    "figure4": _retrieval,
    "figure5": _maps,
    "figure6": _correlation,
    "figure7": _differences,
}
