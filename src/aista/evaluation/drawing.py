"""What charts are made of: the drawing area with its scales, axes, marks, words, the SVG around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files


@dataclass(frozen=True)
class Frame:
    """The drawing area and the two scales.

    Attributes:
        width, height: Of the view box.
        left, right, top, bottom: Margins.
        x_range, y_range: Lowest and highest value.
        log: Whether y is logarithmic.
    """

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
        """Return where a value stands from the left."""
        low, high = self.x_range
        return self.left + (value - low) / ((high - low) or 1) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Return where a value stands from the top."""
        low, high = (self._scaled(bound) for bound in self.y_range)
        share = (self._scaled(value) - low) / ((high - low) or 1)
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.log else value


def y_axis(frame: Frame) -> list[str]:
    """Return rules across the area with their numbers at the left."""
    low, high = frame.y_range
    parts = []
    for tick in log_numbers(low, high) if frame.log else round_numbers(low, high, 4):
        parts.append(rule("grid", frame.left, frame.width - frame.right, frame.y(tick)))
        parts.append(text_at("tick", frame.left - 8, frame.y(tick) + 4, f"{tick:g}", "end"))
    return parts


def x_axis(frame: Frame, ticks: Sequence[float], label: str) -> list[str]:
    """Return numbers under the area and what they are."""
    y = frame.height - frame.bottom
    middle = (frame.left + frame.width - frame.right) / 2
    parts = [text_at("tick", frame.x(tick), y + 18, f"{tick:g}", "middle") for tick in ticks]
    return [*parts, text_at("axis", middle, y + 36, label, "middle")]


def padded(low: float, high: float, log: bool) -> tuple[float, float]:
    """Return a range with some air; it starts at 0 where that costs little."""
    if log:
        return max(low, 1e-12) / 1.3, high * 1.3
    margin = 0.06 * ((high - low) or abs(high) or 1.0)
    return (0.0 if low >= 0 and low < 0.4 * high else low - margin), high + margin


def round_numbers(low: float, high: float, about: int = 6) -> list[float]:
    """Return round numbers from low to high, about so many."""
    span = (high - low) or 1.0
    raw = span / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_numbers(low: float, high: float) -> list[float]:
    """Return 1, 2, 5 times powers of ten from low to high; powers alone where there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    many = high / low > 200
    ticks = [factor * 10.0**power for power in powers for factor in ((1,) if many else (1, 2, 5))]
    return [tick for tick in ticks if low <= tick <= high]


def apart(names: list[tuple[float, str, str]], distance: float = 14.0) -> list[tuple[float, str, str]]:
    """Move labels down until none covers another."""
    placed: list[tuple[float, str, str]] = []
    for y, text, style in sorted(names):
        lowest = placed[-1][0] + distance if placed else -math.inf
        placed.append((max(y, lowest), text, style))
    return placed


def rule(style: str, x1: float, x2: float, y: float) -> str:
    """Return a horizontal line."""
    return f'<line class="{style}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def dot(style: str, x: float, y: float, radius: float, told: str) -> str:
    """Return a dot that says its value when it is pointed at."""
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius}"'
    return f'<circle class="dot {style}" {place}><title>{escape(told)}</title></circle>'


def text_at(style: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    """Return words at a place."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def picture(width: float, height: float, label: str, parts: Sequence[str], extra: str = "") -> str:
    """Return the SVG element around its parts, with a label for those who cannot see it."""
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}"{extra}>'
    return head + "".join(parts) + "</svg>"


def picture_style() -> str:
    """Return the CSS of pictures: the colours, light and dark, and what each class looks like."""
    return (files("aista.evaluation") / "look" / "picture.css").read_text(encoding="utf-8")


def standalone(svg: str) -> str:
    """Return a picture as a file of its own: with a name space and its colours, light and dark."""
    head, rest = svg.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{picture_style()}</style>{rest}'
