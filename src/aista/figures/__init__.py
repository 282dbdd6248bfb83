"""What every figure is drawn with: matplotlib on a canvas measured in pixels, written as SVG and as PNG.

Colours are roles (``base``, ``system``, ``soft``). In an SVG they become CSS variables, so that a page can
show them light and dark; in a PNG they are the light ones.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet

# Role -> light, dark. No two roles share a light colour: the SVG is written with it and then translated.
COLOURS = {
    "paper": ("#fbfaf6", "#171613"), "card": ("#ffffff", "#1e1d19"), "ink": ("#23211d", "#e9e5dc"),
    "soft": ("#6d685f", "#a39d91"), "faint": ("#756f64", "#8f897d"), "rule": ("#e5e1d6", "#34312b"),
    "line": ("#a09a8e", "#756f64"), "field": ("#f3f0e7", "#23211d"), "mark": ("#f3d9c9", "#5a3522"),
    "base": ("#4f6d8f", "#8fb0d6"), "system": ("#ab4d27", "#e58f63"),
    "hue0": ("#2c766b", "#6fbcae"), "hue1": ("#7d5c99", "#b79ad4"), "hue2": ("#8a6810", "#d3ac4f"),
    "hue3": ("#8a4b63", "#cf8aa5"),
}  # fmt: skip
WIDE, NARROW = 720, 372
PRINT_DPI = 144
# What words are for -> their size in pixels and their weight.
FONTS = {
    "plain": (12.0, "normal"), "name": (12.0, "bold"), "small": (10.5, "bold"), "row": (13.0, "normal"),
    "token": (13.5, "normal"),
}  # fmt: skip
_FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "sans-serif"]
# Where a font of the list is not installed the next one is taken, without a warning for every word.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
_NUMBERS = re.compile(r'( (?:d|x|y|transform|points|width|height)=)"([^"]*)"')
_DECIMALS = re.compile(r"(-?\d+\.\d)\d+")
_STYLE: Any = {
    "svg.fonttype": "none", "font.family": _FONTS, "font.size": 12, "axes.unicode_minus": True,
    "svg.hashsalt": "aista",
}  # fmt: skip


def colour(role: str) -> str:
    """Return the light colour of a role, the one that is drawn with."""
    return COLOURS[role][0]


class Canvas:
    """A drawing: places are pixels from the left and from the top.

    Args:
        width, height: In pixels of the page.
        label: What it shows, for those who cannot see it.
    """

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width, self.height, self.label = width, height, label
        with matplotlib.rc_context(_STYLE):
            self.sheet = Sheet(figsize=(width / 72, height / 72), dpi=72)

    def axes(
        self, left: float, top: float, width: float, height: float,
        x: tuple[float, float], y: tuple[float, float],
    ) -> Axes:  # fmt: skip
        """Return an area with these ends of its scales, without spines, ticks and background."""
        place = (left / self.width, 1 - (top + height) / self.height)
        with matplotlib.rc_context(_STYLE):
            area = self.sheet.add_axes((*place, width / self.width, height / self.height))
        area.set(xlim=x, ylim=y, facecolor="none", xticks=[], yticks=[])
        area.spines[:].set_visible(False)
        area.tick_params(length=0, labelsize=12, labelcolor=colour("faint"), pad=6)
        return area

    def text(
        self, x: float, y: float, text: str, role: str = "soft", *, anchor: str = "left", font: str = "plain"
    ) -> None:
        """Write at a place; ``y`` is the line that letters stand on, ``font`` a key of ``FONTS``."""
        size, weight = FONTS[font]
        with matplotlib.rc_context(_STYLE):
            self.sheet.text(
                x / self.width, 1 - y / self.height, text, color=colour(role), ha=anchor, va="baseline",
                fontweight=weight, fontsize=size, parse_math=False,
            )  # fmt: skip

    def dot(self, x: float, y: float, role: str, size: float = 8.0) -> None:
        """Put a filled dot beside words of a legend."""
        across, up = [x / self.width], [1 - y / self.height]
        line = matplotlib.lines.Line2D(across, up, marker="o", markersize=size, color=colour(role))
        self.sheet.add_artist(line)

    def png(self) -> bytes:
        """Return the picture for a document, on white."""
        return self._written("png", dpi=PRINT_DPI, facecolor="white")

    def svg(self) -> Markup:
        """Return the picture as an element of a page that has ``colour_variables`` among its styles."""
        text = self._written("svg", transparent=True, metadata={"Date": None, "Creator": None}).decode()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
        text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
        text = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", text)
        text = _NUMBERS.sub(_shorter, text)
        for role, (light, _) in COLOURS.items():
            text = text.replace(light, f"var(--{role})")
        text = _own_names(text)
        head = (
            f'<svg class="plot" viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'aria-label="{escape(self.label)}">'
        )
        body = re.sub(r">\s+<", "><", text[text.index(">") + 1 :])
        return Markup(head + body.strip())

    def standalone(self) -> str:
        """Return the SVG as a file of its own, light or dark as the reader's system is."""
        style = f"{colour_variables()}\n.plot text {{ font-family: system-ui, sans-serif; }}"
        svg = str(self.svg()).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        return svg.replace(">", f"><style>{style}</style>", 1)

    def _written(self, kind: str, **options: Any) -> bytes:
        out = io.BytesIO()
        with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
            # A PNG made where no font has a letter shows a box; the page's SVG has the reader's fonts.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            self.sheet.savefig(out, format=kind, **options)
        return out.getvalue()


def _shorter(attribute: re.Match[str]) -> str:
    """Return an attribute with its numbers rounded to a tenth of a pixel, on one line."""
    numbers = _DECIMALS.sub(r"\1", " ".join(attribute[2].split()))
    return f'{attribute[1]}"{numbers}"'


def _own_names(svg: str) -> str:
    """Drop the names nothing refers to, and make the others unlike those of other drawings on a page."""
    mine = sha256(svg.encode()).hexdigest()[:8]
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{mine}-{m[1]}"' if m[1] in used else "", svg)
    return re.sub(r'xlink:href="#', f'href="#{mine}-', svg).replace("url(#", f"url(#{mine}-")


def colour_variables() -> str:
    """Return the CSS that gives every role its colour: light, dark, and as a page's reader chose."""
    light, dark = (" ".join(f"--{role}: {pair[i]};" for role, pair in COLOURS.items()) for i in (0, 1))
    return (
        f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ "
        f':root:not([data-theme="light"]) {{ {dark} }} }}\n:root[data-theme="dark"] {{ {dark} }}'
    )


def apart(heights: Sequence[float], distance: float = 15.0, lowest: float = float("inf")) -> list[float]:
    """Return heights (pixels from the top, in any order) moved so that none is nearer than ``distance``.

    Args:
        heights: Where labels would stand.
        distance: Between two labels.
        lowest: No label goes below this.
    """
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = [0.0] * len(heights)
    above = float("-inf")
    for i in order:
        above = placed[i] = max(heights[i], above + distance)
    below = lowest + distance
    for i in reversed(order):
        below = placed[i] = min(placed[i], below - distance)
    return placed


def signed(value: float, digits: int | None = 1) -> str:
    """Write a number with its sign, a true minus, and no sign for zero.

    Args:
        value: The number.
        digits: Decimals; None: as many as it has.
    """
    size = f"{abs(value):g}" if digits is None else f"{abs(value):.{digits}f}"
    return size if not float(size) else ("+" if value > 0 else "−") + size
