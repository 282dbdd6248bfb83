"""The picture of a study: one line an idea, its seeds as dots, its interval as a bar, zero in the middle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from aista.evaluation.drawing import Frame, dot, picture, round_numbers, rule, text_at
from aista.reproduce.styles import signed_text

WIDTH, LABELS, LINE, HEAD = 860, 400, 26, 34


def forest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return differences as SVG whose colours the page gives.

    Args:
        rows: ``group``, ``title``, ``mean``, ``low`` and ``high`` (None for one seed), ``values`` (one text).
    """
    groups = [(name, list(found)) for name, found in groupby(rows, key=lambda row: row["group"])]
    height = 46 + HEAD * len(groups) + LINE * len(rows)
    ends = [value for row in rows for value in (*_values(row), row["low"] or 0.0, row["high"] or 0.0)]
    reach = (min(*ends, 0.0), max(*ends, 0.0))
    frame = Frame(WIDTH, height, LABELS, 24, 0, 40, reach, (0, 1))
    parts = []
    for tick in round_numbers(*reach):
        style = "zero" if tick == 0 else "thread"
        parts.append(_upright(style, frame.x(tick), height - 40))
        parts.append(text_at("tick", frame.x(tick), height - 22, signed_text(tick), "middle"))
    parts.append(text_at("axis", (LABELS + WIDTH) / 2, height - 4, "difference in dev BLEU", "middle"))
    y = 0.0
    for name, found in groups:
        y += HEAD
        parts.append(text_at("name plain", 0, y - 10, name))
        for row in found:
            y += LINE
            parts += _line(frame, row, y - LINE / 2 - 2)
    return picture(WIDTH, height, "Difference in BLEU of every idea to its base", parts)


def _line(frame: Frame, row: Mapping[str, Any], y: float) -> list[str]:
    style = "system" if (row["low"] or 0) > 0 else "base" if (row["high"] or 0) < 0 else "plain"
    parts = [text_at("row", LABELS - 14, y + 4, row["title"], "end")]
    if row["low"] is not None:
        parts.append(rule(f"whisker {style}", frame.x(row["low"]), frame.x(row["high"]), y))
    told = f"{row['title']}: {signed_text(row['mean'], 1)}"
    parts += [dot("faint", frame.x(value), y, 3, signed_text(value, 1)) for value in _values(row)]
    return [*parts, dot(f"{style} marked", frame.x(row["mean"]), y, 5, told)]


def _values(row: Mapping[str, Any]) -> list[float]:
    return [float(value) for value in str(row["values"]).split()]


def _upright(style: str, x: float, y: float) -> str:
    return f'<line class="{style}" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{y:.1f}"/>'
