"""Figures as inline SVG: no script, no pictures; the colours are the page's own (light or dark).

Every figure is a string that starts with ``<svg``. Shapes carry classes; the page's style sheet colours them.
Values appear when a mark is pointed at (``<title>``) and are read out by screen readers (``aria-label``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from aista.evaluation.drawing import (
    Frame,
    apart,
    dot,
    padded,
    picture,
    round_numbers,
    rule,
    text_at,
    x_axis,
    y_axis,
)


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: Written at its end.
        points: (x, y) pairs, x ascending.
        style: CSS class: ``base``, ``system``, ``plain``.
        dots: Whether the points themselves are drawn.
        marked: The x of points to emphasise.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: str = "plain"
    dots: bool = False
    marked: Sequence[float] = ()


@dataclass(frozen=True)
class Level:
    """A horizontal line with a name, e.g. a threshold."""

    name: str
    value: float
    style: str = "level"


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    levels: Sequence[Level] = (),
    width: int = 720,
    height: int = 300,
    y_range: tuple[float, float] | None = None,
    x_ticks: Sequence[float] | None = None,
    log: bool = False,
    digits: int = 2,
) -> str:
    """Draw lines over a common x axis; each line and level is named at its right end, without a legend.

    Args:
        series: The lines; points that are not finite are left out.
        label: What the figure shows, for those who cannot see it.
        x_label: Written under the x axis.
        levels: Horizontal lines.
        width, height: Of the view box; the figure takes the width it is given.
        y_range: Lowest and highest y; by default what the values need.
        x_ticks: Where to put numbers on the x axis.
        log: Whether y is logarithmic (values above 0).
        digits: Decimals in labels.
    """
    drawn = [(row, [p for p in row.points if all(map(math.isfinite, p))]) for row in series]
    drawn = [(row, points) for row, points in drawn if points]
    if not drawn:
        return picture(width, 40, f"{label}: no data", [text_at("tick", 0, 24, "no data")])
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points] + [level.value for level in levels]
    bounds = y_range or padded(min(ys), max(ys), log)
    frame = Frame(width, height, 46, 118, 12, 40, (min(xs), max(xs)), bounds, log)
    parts = [*y_axis(frame), *x_axis(frame, x_ticks or round_numbers(*frame.x_range), x_label)]
    names: list[tuple[float, str, str]] = []
    for level in levels:
        parts.append(rule(level.style, frame.left, width - frame.right, frame.y(level.value)))
        names.append((frame.y(level.value), f"{level.name} {level.value:.{max(digits, 3)}f}", level.style))
    for row, points in drawn:
        parts += _line(frame, row, points, digits)
        names.append((frame.y(points[-1][1]), row.name, row.style))
    parts += [
        text_at(f"name {style}", width - frame.right + 9, y + 4, name) for y, name, style in apart(names)
    ]
    return picture(width, height, label, parts)


def _line(frame: Frame, row: Series, points: list[tuple[float, float]], digits: int) -> list[str]:
    path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    parts = [f'<polyline class="line {row.style}" points="{path}"/>']
    for value in points if row.dots else ():
        x, y = frame.x(value[0]), frame.y(value[1])
        told = f"{row.name} at {value[0]:g}: {value[1]:.{digits + 1}f}"
        if value[0] in row.marked:
            parts.append(dot(f"{row.style} marked", x, y, 5.5, told))
            parts.append(text_at("value", x + 9, y - 7, f"{value[1]:.{digits}f}"))
        else:
            parts.append(dot(row.style, x, y, 3.5, told))
    return parts


@dataclass(frozen=True)
class Pair:
    """Two values of one measure, with the half widths of their intervals where they are known."""

    name: str
    base: float
    system: float
    base_half_width: float = 0.0
    system_half_width: float = 0.0


def dumbbells(pairs: Sequence[Pair], *, label: str, names: tuple[str, str], width: int = 720) -> str:
    """Draw each pair as two dots on one axis from 0 to 100, joined; intervals as thin bars."""
    step, top = 46, 34
    height = top + step * len(pairs) + 34
    frame = Frame(width, height, 190, 28, top, 34, (0, 100), (0, 1))
    parts = []
    for tick in range(0, 101, 20):
        x = frame.x(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8}" y2="{height - 34}"/>')
        parts.append(text_at("tick", x, height - 14, str(tick), "middle"))
    for row, pair in enumerate(pairs):
        y = top + step * row + step / 2
        parts.append(text_at("row", 172, y + 4, pair.name, "end"))
        parts.append(rule("joint", frame.x(pair.base), frame.x(pair.system), y))
        ends = ((pair.base, pair.base_half_width, "base"), (pair.system, pair.system_half_width, "system"))
        for (value, half, style), shift in zip(ends, (-3.5, 3.5), strict=True):
            low, high = frame.x(max(value - half, 0)), frame.x(min(value + half, 100))
            if half:
                parts.append(rule(f"whisker {style}", low, high, y + shift))
            told = f"{pair.name}: {value:.1f}" + (f" ± {half:.1f}" if half else "")
            parts.append(dot(style, frame.x(value), y + shift, 5.5, told))
    for style, name, x in (("base", names[0], frame.left + 4), ("system", names[1], frame.left + 80)):
        parts += [dot(style, x, 12, 5, name), text_at(f"name {style}", x + 11, 16, name)]
    return picture(width, height, label, parts)


def waveform(samples: np.ndarray, *, bars: int = 120, width: int = 720, height: int = 64) -> str:
    """Draw the loudness of a clip over time as mirrored bars (the peak of each stretch)."""
    shapes = [_wave(samples, 0, 0, width, height, bars)]
    return picture(width, height, "waveform", shapes, extra=' preserveAspectRatio="none"')


def _wave(samples: np.ndarray, left: float, top: float, width: float, height: float, bars: int) -> str:
    peaks = np.array([np.abs(part).max(initial=0.0) for part in np.array_split(samples, bars)])
    reach = np.maximum(1.0, peaks / (peaks.max() or 1.0) * (height / 2 - 2))
    step, middle = width / bars, top + height / 2
    path = " ".join(
        f"M{left + (i + 0.5) * step:.1f} {middle - half:.1f}V{middle + half:.1f}"
        for i, half in enumerate(reach)
    )
    return f'<path class="wave" d="{path}" stroke-width="{step * 0.55:.2f}"/>'


def heat_map(
    plan: Sequence[Sequence[float]],
    tokens: Sequence[str],
    *,
    label: str,
    samples: np.ndarray | None = None,
    cell: int = 26,
    gutter: int = 92,
) -> str:
    """Draw a transport plan: columns are windows of speech in time, rows are tokens, dark is much mass.

    Each column is shown as shares of its window's mass, so that a fully decided window is one dark cell.

    Args:
        plan: n windows x m tokens.
        tokens: m texts.
        label: What the figure shows.
        samples: The sound of exactly these windows, drawn above them.
        cell: Side of a cell in units of the view box.
        gutter: Room for the tokens' texts.
    """
    shares = np.asarray(plan, dtype=float)
    shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    n, m = shares.shape
    top = 44 if samples is not None else 0
    width, height = gutter + n * cell + 4, top + m * cell + 26
    parts = [_wave(samples, gutter, 0, n * cell, 38, 5 * n)] if samples is not None else []
    parts.append(f'<rect class="field" x="{gutter}" y="{top}" width="{n * cell}" height="{m * cell}"/>')
    for j, token in enumerate(tokens):
        parts.append(text_at("token", gutter - 9, top + (j + 0.5) * cell + 4.5, token.strip() or "␣", "end"))
    for i, j in zip(*np.nonzero(shares > 0.005), strict=True):
        place = f'x="{gutter + i * cell + 1}" y="{top + j * cell + 1}" width="{cell - 2}" height="{cell - 2}"'
        told = escape(f"window {i + 1} → {tokens[j].strip()}: {100 * shares[i, j]:.0f} %")
        parts.append(
            f'<rect class="mass" {place} rx="3" opacity="{shares[i, j]:.2f}"><title>{told}</title></rect>'
        )
    numbered = (i for i in range(n) if n <= 24 or i % 5 == 0)
    parts += [text_at("tick", gutter + (i + 0.5) * cell, height - 8, str(i + 1), "middle") for i in numbered]
    cursor = f'x="{gutter}" y="{top}" width="2" height="{m * cell}" style="--span:{n * cell}px"'
    return picture(width, height, label, [*parts, f'<rect class="cursor" {cursor}/>'])
