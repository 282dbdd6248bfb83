"""The picture of a study: one line an idea, its seeds as dots, its interval as a bar, a panel a measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from aista.evaluation.drawing import Frame, dot, picture, round_numbers, rule, text_at
from aista.reproduce.styles import signed_text

WIDTH, LABELS, GAP, LINE, HEAD, FOOT = 980, 380, 36, 26, 34, 46
REACH = 5.0  # what lies further off stands at the edge with its number

Row = Mapping[str, Any]


def forest(rows: Sequence[Row]) -> str:
    """Return differences as SVG whose colours the page gives.

    Args:
        rows: One per idea and measure: ``group``, ``name``, ``title``, ``measure``, ``mean``, ``low`` and
            ``high`` (None for one seed), ``values`` (one text); the measures of an idea one after the other.
    """
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    ideas = [list(found) for _, found in groupby(rows, key=lambda row: row["name"])]
    groups = [(name, list(found)) for name, found in groupby(ideas, key=lambda idea: idea[0]["group"])]
    height = FOOT + HEAD * len(groups) + LINE * len(ideas)
    panels = {
        name: _panel(i, len(measures), height, [row for row in rows if row["measure"] == name])
        for i, name in enumerate(measures)
    }
    parts = [part for name, frame in panels.items() for part in _axis(frame, name)]
    y = 0.0
    for name, found in groups:
        y += HEAD
        parts.append(text_at("name plain", 0, y - 8, name))
        for idea in found:
            y += LINE
            parts.append(text_at("row", LABELS - 14, y - LINE / 2 + 4, idea[0]["title"], "end"))
            for row in idea:
                parts += _line(panels[row["measure"]], row, y - LINE / 2)
    return picture(WIDTH, height, "Difference of every idea to its base", parts)


def _panel(number: int, count: int, height: float, rows: Sequence[Row]) -> Frame:
    """Return one panel's area; its scale reaches to the farthest seed, but not beyond ``REACH``."""
    width = (WIDTH - LABELS - GAP * count) / count
    left = LABELS + number * (width + GAP)
    ends = [value for row in rows for value in _values(row)]
    reach = max(min(*ends, -1.0), -REACH), min(max(*ends, 1.0), REACH)
    return Frame(WIDTH, height, left, WIDTH - left - width, 0, FOOT, reach, (0, 1))


def _axis(frame: Frame, name: str) -> list[str]:
    bottom, parts = frame.height - FOOT, []
    for tick in round_numbers(*frame.x_range):
        parts.append(_upright("zero" if tick == 0 else "thread", frame.x(tick), bottom))
        parts.append(text_at("tick", frame.x(tick), bottom + 18, signed_text(tick), "middle"))
    middle = (frame.left + frame.width - frame.right) / 2
    return [*parts, text_at("axis", middle, bottom + 38, f"difference in {name}", "middle")]


def _line(frame: Frame, row: Row, y: float) -> list[str]:
    low, high = frame.x_range
    style = "system" if (row["low"] or 0) > 0 else "base" if (row["high"] or 0) < 0 else "plain"

    def x(value: float) -> float:
        return frame.x(min(max(value, low), high))

    parts = []
    if row["low"] is not None:
        parts.append(rule(f"whisker {style}", x(row["low"]), x(row["high"]), y))
    parts += [dot("faint", x(value), y, 3, signed_text(value, 1)) for value in _values(row)]
    parts.append(
        dot(f"{style} marked", x(row["mean"]), y, 5, f"{row['title']}: {signed_text(row['mean'], 1)}")
    )
    if not low <= row["mean"] <= high:
        parts.append(text_at("tick", x(row["mean"]) + 10, y + 4, signed_text(row["mean"], 1)))
    return parts


def _values(row: Row) -> list[float]:
    return [float(value) for value in str(row["values"]).split()]


def _upright(style: str, x: float, y: float) -> str:
    return f'<line class="{style}" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{y:.1f}"/>'
