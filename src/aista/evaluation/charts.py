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


@dataclass(frozen=True)
class _Frame:
    """The drawing area and the two scales."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log: bool = False

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / ((high - low) or 1) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = (self._scaled(bound) for bound in self.y_range)
        share = (self._scaled(value) - low) / ((high - low) or 1)
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.log else value


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
        return f'<svg viewBox="0 0 {width} 40" role="img" aria-label="{escape(label)}: no data"></svg>'
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points] + [level.value for level in levels]
    y_range = y_range or _padded(min(ys), max(ys), log)
    frame = _Frame(width, height, 46, 118, 12, 40, (min(xs), max(xs)), y_range, log)
    parts = [*_y_axis(frame), *_x_axis(frame, x_ticks or _ticks(*frame.x_range), x_label)]
    names: list[tuple[float, str, str]] = []
    for level in levels:
        y = frame.y(level.value)
        parts.append(
            f'<line class="{level.style}" x1="{frame.left}" x2="{width - frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        names.append((y, f"{level.name} {level.value:.{max(digits, 3)}f}", f"name {level.style}"))
    for row, points in drawn:
        parts += _line(frame, row, points, digits)
        names.append((frame.y(points[-1][1]), row.name, f"name {row.style}"))
    for y, text, style in _apart(names, 14.0):
        parts.append(
            f'<text class="{style}" x="{width - frame.right + 9}" y="{y + 4:.1f}">{escape(text)}</text>'
        )
    return _svg(width, height, label, parts)


def _line(frame: _Frame, row: Series, points: list[tuple[float, float]], digits: int) -> list[str]:
    path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    parts = [f'<polyline class="line {row.style}" points="{path}"/>']
    for x, y in points if row.dots else ():
        marked = " marked" if x in row.marked else ""
        radius = 5.5 if marked else 3.5
        parts.append(
            f'<circle class="dot {row.style}{marked}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="{radius}">'
            f"<title>{escape(row.name)} at {x:g}: {y:.{digits + 1}f}</title></circle>"
        )
        if marked:
            parts.append(
                f'<text class="value" x="{frame.x(x) + 9:.1f}" y="{frame.y(y) - 7:.1f}">{y:.{digits}f}</text>'
            )
    return parts


def _y_axis(frame: _Frame) -> list[str]:
    low, high = frame.y_range
    ticks = _log_ticks(low, high) if frame.log else _ticks(low, high, 4)
    parts = []
    for tick in ticks:
        y = frame.y(tick)
        parts.append(
            f'<line class="grid" x1="{frame.left}" x2="{frame.width - frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" text-anchor="end" x="{frame.left - 8}" y="{y + 4:.1f}">{tick:g}</text>'
        )
    return parts


def _x_axis(frame: _Frame, ticks: Sequence[float], label: str) -> list[str]:
    y = frame.height - frame.bottom
    parts = [
        f'<text class="tick" text-anchor="middle" x="{frame.x(tick):.1f}" y="{y + 18:.1f}">{tick:g}</text>'
        for tick in ticks
    ]
    middle = (frame.left + frame.width - frame.right) / 2
    parts.append(
        f'<text class="axis" text-anchor="middle" x="{middle:.1f}" y="{y + 36:.1f}">{escape(label)}</text>'
    )
    return parts


def _padded(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        return max(low, 1e-12) / 1.3, high * 1.3
    margin = 0.06 * ((high - low) or abs(high) or 1.0)
    return (0.0 if low >= 0 and low < 0.4 * high else low - margin), high + margin


def _ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Return round numbers from low to high, about so many."""
    span = (high - low) or 1.0
    raw = span / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    many = high / low > 200
    ticks = [factor * 10.0**power for power in powers for factor in ((1,) if many else (1, 2, 5))]
    return [tick for tick in ticks if low <= tick <= high]


def _apart(names: list[tuple[float, str, str]], distance: float) -> list[tuple[float, str, str]]:
    """Move labels down until none covers another."""
    placed: list[tuple[float, str, str]] = []
    for y, text, style in sorted(names):
        lowest = placed[-1][0] + distance if placed else -math.inf
        placed.append((max(y, lowest), text, style))
    return placed


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
    frame = _Frame(width, height, 190, 28, top, 34, (0, 100), (0, 1))
    parts = []
    for tick in range(0, 101, 20):
        x = frame.x(tick)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8}" y2="{height - 34}"/>'
            f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{height - 14}">{tick}</text>'
        )
    for row, pair in enumerate(pairs):
        y = top + step * row + step / 2
        parts.append(
            f'<text class="row" text-anchor="end" x="172" y="{y + 4:.1f}">{escape(pair.name)}</text>'
        )
        ends = ((pair.base, pair.base_half_width, "base"), (pair.system, pair.system_half_width, "system"))
        parts.append(
            f'<line class="joint" x1="{frame.x(pair.base):.1f}" x2="{frame.x(pair.system):.1f}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        for (value, half, style), shift in zip(ends, (-3.5, 3.5), strict=True):
            low, high = max(value - half, 0), min(value + half, 100)
            if half:
                parts.append(
                    f'<line class="whisker {style}" x1="{frame.x(low):.1f}" x2="{frame.x(high):.1f}" '
                    f'y1="{y + shift:.1f}" y2="{y + shift:.1f}"/>'
                )
            parts.append(
                f'<circle class="dot {style}" cx="{frame.x(value):.1f}" cy="{y + shift:.1f}" r="5.5">'
                f"<title>{escape(pair.name)}, {style}: {value:.1f} (± {half:.1f})</title></circle>"
            )
    parts.append(
        f'<circle class="dot base" cx="{frame.left + 4}" cy="12" r="5"/>'
        f'<text class="name base" x="{frame.left + 15}" y="16">{escape(names[0])}</text>'
        f'<circle class="dot system" cx="{frame.left + 76}" cy="12" r="5"/>'
        f'<text class="name system" x="{frame.left + 87}" y="16">{escape(names[1])}</text>'
    )
    return _svg(width, height, label, parts)


def waveform(samples: np.ndarray, *, bars: int = 120, width: int = 720, height: int = 64) -> str:
    """Draw the loudness of a clip over time as mirrored bars (the peak of each stretch)."""
    peaks = np.array([np.abs(part).max(initial=0.0) for part in np.array_split(samples, bars)])
    peaks = peaks / (peaks.max() or 1.0)
    step = width / bars
    middle = height / 2
    path = " ".join(
        f"M{i * step + step / 2:.1f} {middle - max(1.0, peak * (middle - 2)):.1f}V"
        f"{middle + max(1.0, peak * (middle - 2)):.1f}"
        for i, peak in enumerate(peaks)
    )
    shapes = [f'<path class="wave" d="{path}" stroke-width="{step * 0.55:.2f}"/>']
    return _svg(width, height, "waveform", shapes, extra='preserveAspectRatio="none"')


def heat_map(
    plan: Sequence[Sequence[float]], tokens: Sequence[str], *, label: str, cell: int = 26, gutter: int = 92
) -> str:
    """Draw a transport plan: columns are windows of speech in time, rows are tokens, dark is much mass.

    Each column is shown as shares of its window's mass, so that a fully decided window is one dark cell.

    Args:
        plan: n windows x m tokens.
        tokens: m texts.
        label: What the figure shows.
        cell: Side of a cell in units of the view box.
        gutter: Room for the tokens' texts.
    """
    shares = np.asarray(plan, dtype=float)
    shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    n, m = shares.shape
    width, height = gutter + n * cell + 4, m * cell + 26
    parts = [f'<rect class="field" x="{gutter}" y="0" width="{n * cell}" height="{m * cell}"/>']
    for j, token in enumerate(tokens):
        parts.append(
            f'<text class="token" text-anchor="end" x="{gutter - 9}" y="{(j + 0.5) * cell + 4.5:.1f}">'
            f"{escape(token.strip() or '␣')}</text>"
        )
    for i, j in zip(*np.nonzero(shares > 0.005), strict=True):
        share = shares[i, j]
        parts.append(
            f'<rect class="mass" x="{gutter + i * cell + 1}" y="{j * cell + 1}" width="{cell - 2}" '
            f'height="{cell - 2}" rx="3" opacity="{share:.2f}"><title>window {i + 1} → '
            f"{escape(str(tokens[j]).strip())}: {100 * share:.0f} %</title></rect>"
        )
    parts += [
        f'<text class="tick" text-anchor="middle" x="{gutter + (i + 0.5) * cell:.1f}" '
        f'y="{m * cell + 18}">{i + 1}</text>'
        for i in range(n)
        if n <= 24 or i % 5 == 0
    ]
    return _svg(width, height, label, parts)


def _svg(width: float, height: float, label: str, parts: Sequence[str], extra: str = "") -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}" {extra}>'
        + "".join(parts)
        + "</svg>"
    )
