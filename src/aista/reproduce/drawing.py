"""The pictures of the figures, drawn from their stored numbers at any width.

A page draws each twice, wide and for a phone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from aista.evaluation.drawing import (
    Frame,
    apart,
    dot,
    picture,
    rule,
    text_at,
    x_axis,
    y_axis,
)
from aista.reproduce.scatter import correlation
from aista.reproduce.styles import short_title, signed_text, style_of

WIDE, NARROW = 720, 372
_WIDTH_OF_LETTER = 6.6

Data = Mapping[str, Any]


def draw(name: str, data: Data, width: int = WIDE) -> str:
    """Return the picture of a figure (``figure4`` ... ``figure7``) as SVG whose colours the page gives."""
    return _DRAWINGS[name](data, width)


def can_draw(name: str) -> bool:
    """Whether a figure of this name is drawn here."""
    return name in _DRAWINGS


# ---- Figure 4 ----


def retrieval_by_layer(data: Data, width: int) -> str:
    """Figure 4: MRR at every layer, one line per backbone; chosen layers are filled."""
    lines = data["lines"]
    right = 14 if width < 500 else 112
    top = 28 + 20 * len(lines) if width < 500 else 28
    last = max(len(line["mrr"]) - 1 for line in lines)
    highest = max(*(value for line in lines for value in line["high"]), 0.1)
    bottom = 62 if width < 500 else 44
    height = 288 + top + bottom - 44
    frame = Frame(width, height, 40, right, top, bottom, (0, last), (0.0, min(1.0, highest * 1.12)))
    step = max(1, round(last / (12 if width >= 500 else 7)))
    parts = [*y_axis(frame), *x_axis(frame, range(0, last + 1, step), "layer (0: what enters the LLM)")]
    parts.append(text_at("axis", 0, frame.top - 12, "MRR"))
    names: list[tuple[float, str, str]] = []
    for number, line in enumerate(lines):
        style = f"hue{number}"
        parts += _retrieval_line(frame, line, style)
        names.append((frame.y(line["mrr"][-1]), line["title"], style))
    for key in ("threshold", "chance"):
        for value in sorted({round(line[key], 5) for line in lines}):
            kind = "level" if key == "threshold" else "chance"
            parts.append(rule(kind, frame.left, width - frame.right, frame.y(value)))
            names.append((frame.y(value), f"{key} {value:.3f}", kind))
    if width < 500:
        parts += _legend(
            [(line["title"], f"hue{i}") for i, line in enumerate(lines)], frame.left, 14, down=True
        )
        told = " · ".join(name for _, name, kind in names if not kind.startswith("hue"))
        parts.append(text_at("tick", frame.left, frame.height - 2, told))
    else:
        parts += [text_at(f"name {s}", width - right + 9, y + 4, name) for y, name, s in apart(names)]
    return picture(width, frame.height, "Mean reciprocal rank of the right transcript at every layer", parts)


def _retrieval_line(frame: Frame, line: Mapping[str, Any], style: str) -> list[str]:
    mrr = line["mrr"]
    band = [(i, value) for i, value in enumerate(line["high"])]
    band += [(i, value) for i, value in reversed(list(enumerate(line["low"])))]
    points = " ".join(f"{frame.x(i):.1f},{frame.y(value):.1f}" for i, value in band)
    path = " ".join(f"{frame.x(i):.1f},{frame.y(value):.1f}" for i, value in enumerate(mrr))
    parts = [f'<polygon class="band {style}" points="{points}"/>']
    parts.append(f'<polyline class="line {style}" points="{path}"/>')
    for i, value in enumerate(mrr):
        chosen = " marked" if i in line["selected"] else ""
        told = f"{line['title']}, layer {i}: {value:.3f}{', chosen' if chosen else ''}"
        parts.append(dot(style + chosen, frame.x(i), frame.y(value), 4.5 if chosen else 3.5, told))
    return parts


# ---- Figure 5 ----


def maps(data: Data, width: int) -> str:
    """Figure 5: mean representations in the plane with their density, one panel per model."""
    panels = data["panels"]
    across = 1 if width < 500 else 2
    side = (width - 20 * (across - 1)) / across
    rows = [panels[i : i + across] for i in range(0, len(panels), across)]
    height = len(rows) * (side + 34)
    parts = []
    for r, row in enumerate(rows):
        for c, panel in enumerate(row):
            parts += _map(panel, data["bounds"][panel["backbone"]], c * (side + 20), r * (side + 34), side)
    return picture(width, height, "Speech and text representations before the language model", parts)


def _map(panel: Data, bounds: Sequence[float], left: float, top: float, side: float) -> list[str]:
    frame = Frame(side, side, 0, 0, 0, 0, (bounds[0], bounds[1]), (bounds[2], bounds[3]))
    style = style_of(panel["system"])
    place = f'x="0" y="0" width="{side:.1f}" height="{side:.1f}" rx="8"'
    inner = [f'<rect class="field" {place}/>']
    for kind, hue in (("text", "plain"), ("speech", style)):
        for pieces in reversed(panel["contours"][kind]):
            path = "".join(_path(frame, piece) for piece in pieces)
            inner.append(f'<path class="density {hue}" fill-rule="evenodd" d="{path}"/>')
    for kind, hue in (("text", "plain"), ("speech", style)):
        spots = "".join(f"M{frame.x(x):.1f} {frame.y(y):.1f}h0" for x, y in panel[kind])
        inner.append(f'<path class="spots {hue}" d="{spots}"><title>{kind}</title></path>')
    inner += _legend([("speech", style), ("text", "plain")], 14, side - 14)
    head = text_at(f"name {style}", left, top + 16, short_title("", panel["title"]))
    return [head, f'<g transform="translate({left:.1f} {top + 26:.1f})">{"".join(inner)}</g>']


def _path(frame: Frame, points: Sequence[Sequence[float]]) -> str:
    return "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points) + "Z"


# ---- Figure 7 ----


def differences(data: Data, width: int) -> str:
    """Figure 7's count: by how much each sentence is better or worse, one panel per backbone and language."""
    panels = data["counts"]
    across = 1 if width < 500 else 2
    side, height = (width - 36 * (across - 1)) / across, 150.0
    parts = []
    for number, panel in enumerate(panels):
        left, top = number % across * (side + 36), number // across * (height + 14)
        parts.append(
            f'<g transform="translate({left:.1f} {top:.1f})">{"".join(_histogram(panel, side, height))}</g>'
        )
    total = -(-len(panels) // across) * (height + 14)
    return picture(width, total, "How many sentences are better or worse, and by how much", parts)


def _histogram(panel: Data, width: float, height: float) -> list[str]:
    edges, counts = panel["edges"], panel["histogram"]
    frame = Frame(width, height, 0, 0, 46, 22, (edges[0], edges[-1]), (0, max(*counts, 1)))
    parts = [text_at("row", 0, 13, panel["panel"])]
    told = f"{panel['num_worse']} worse · {panel['num_equal']} equal · {panel['num_better']} better"
    parts.append(text_at("tick", 0, 30, told))
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if not count:
            continue
        style = "system" if low >= 0 else "base"
        x, y = frame.x(low) + 1, frame.y(count)
        size = f'width="{frame.x(high) - frame.x(low) - 2:.1f}" height="{frame.y(0) - y:.1f}"'
        told = escape(f"{low:+.0f} to {high:+.0f}: {count} sentences")
        parts.append(
            f'<rect class="bar {style}" x="{x:.1f}" y="{y:.1f}" {size} rx="1.5"><title>{told}</title></rect>'
        )
    parts.append(rule("ground", 0, width, frame.y(0)))
    for value, anchor in ((edges[0], "start"), (0, "middle"), (edges[-1], "end")):
        parts.append(text_at("tick", frame.x(value), height - 6, signed_text(value), anchor))
    return parts


# ---- what several share ----


def _legend(names: Sequence[tuple[str, str]], left: float, y: float, down: bool = False) -> list[str]:
    parts = []
    for name, style in names:
        parts.append(dot(f"{style} marked", left + 4, y - 4, 4.5, name))
        parts.append(text_at(f"name {style}", left + 14, y, name))
        if down:
            y += 18
        else:
            left += 32 + _WIDTH_OF_LETTER * len(name)
    return parts


_DRAWINGS: Mapping[str, Callable[[Data, int], str]] = {
    "figure4": retrieval_by_layer,
    "figure5": maps,
    "figure6": correlation,
    "figure7": differences,
}
