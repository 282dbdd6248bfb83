"""The pictures of the figures, drawn from their stored numbers at any width.

A page draws each twice, wide and for a phone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from aista.evaluation.drawing import (
    Frame,
    apart,
    dot,
    picture,
    round_numbers,
    rule,
    text_at,
    x_axis,
    y_axis,
)

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
    style = _style_of(panel["system"])
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


# ---- Figure 6 ----


def correlation(data: Data, width: int) -> str:
    """Figure 6: log Wasserstein against BLEU, one panel per backbone and direction, one dot per run."""
    panels: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in data["rows"]:
        panels[row["panel"]].append(row)
    across = 1 if width < 500 else 2
    side, height = (width - 24 * (across - 1)) / across, 310.0
    parts = []
    for number, (title, rows) in enumerate(panels.items()):
        left, top = number % across * (side + 24), number // across * (height + 18)
        inner = "".join(_runs(title, rows, _pearson(data, title), side, height))
        parts.append(f'<g transform="translate({left:.1f} {top:.1f})">{inner}</g>')
    total = -(-len(panels) // across) * (height + 18)
    return picture(width, total, "Transport cost against translation quality, one dot per run", parts)


def _runs(title: str, rows: Sequence[Data], told: str, width: float, height: float) -> list[str]:
    """Return one panel: a dot per run, each system named at the right."""
    across, up = (_stretched([row[key] for row in rows]) for key in ("log_wasserstein", "bleu"))
    frame = Frame(width, height, 36, 92, 50, 44, across, up)
    parts = [text_at("row", 0, 14, f"{title}, BLEU"), text_at("tick", 0, 31, told), *y_axis(frame)]
    parts += x_axis(frame, round_numbers(*across, 4), "log Wasserstein (smaller: closer)")
    systems: dict[str, list[Data]] = defaultdict(list)
    for row in rows:
        systems[row["system"]].append(row)
    last = {key: max(runs, key=lambda run: run["log_wasserstein"]) for key, runs in systems.items()}
    names = sorted((frame.y(run["bleu"]), short_title(key, run["title"]), key) for key, run in last.items())
    edge = width - frame.right + 8
    for (y, name, system), (_, at) in zip(names, _in_bounds(names, frame), strict=True):
        parts.append(_leader(frame.x(last[system]["log_wasserstein"]) + 6, y, edge - 3, at))
        shown = _short(name, frame.right - 8)
        parts.append(text_at(f"name small {_style_of(system)}", edge, at + 4, shown))
    for row in rows:
        told = f"{row['title']}, seed {row['seed']}: {row['bleu']:.1f} BLEU at {row['log_wasserstein']:.2f}"
        x, y = frame.x(row["log_wasserstein"]), frame.y(row["bleu"])
        parts.append(dot(f"{_style_of(row['system'])} marked", x, y, 4, told))
    return parts


def _pearson(data: Data, panel: str) -> str:
    """Return a panel's coefficient with its interval, if it has one."""
    for row in data["correlations"]:
        if row["over"] == panel and row["coefficient"] == "Pearson" and row["low"] is not None:
            low, high = _signed(row["low"], 2), _signed(row["high"], 2)
            return f"r = {_signed(row['value'], 2)} (95 %: {low} to {high}), {row['n']} runs"
    return ""


def _stretched(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of values with some air at both ends."""
    low, high = min(values), max(values)
    air = 0.1 * ((high - low) or 1.0)
    return low - air, high + air


def short_title(system: str, title: str) -> str:
    """Return what a system is called where there is little room: its title without brackets."""
    return _SHORT.get(system, title.split(" (")[0])


_SHORT = {"ai_sta_raw": "literal cost", "layer_1_raw": "layer 1, literal"}


def _in_bounds(names: list[tuple[float, str, str]], frame: Frame) -> list[tuple[str, float]]:
    """Place labels so that none covers another and none falls below the drawing."""
    placed = [y for y, _, _ in apart(names, 13)]
    lowest = frame.height - frame.bottom + 6
    for i in range(len(placed) - 1, -1, -1):
        placed[i] = min(placed[i], lowest - 13 * (len(placed) - 1 - i))
    return [(name, y) for (_, name, _), y in zip(names, placed, strict=True)]


def _leader(x1: float, y1: float, x2: float, y2: float) -> str:
    bend = max(x1, x2 - 14)
    return f'<path class="leader" d="M{x1:.1f} {y1:.1f}H{bend:.1f}L{x2:.1f} {y2:.1f}"/>'


def _short(name: str, room: float) -> str:
    most = int(room / _WIDTH_OF_LETTER)
    return name if len(name) <= most else name[: most - 1].rstrip(" ,(") + "…"


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
        parts.append(text_at("tick", frame.x(value), height - 6, _signed(value), anchor))
    return parts


# ---- what several share ----


def gains(rows: Sequence[Data], width: int) -> str:
    """Draw gains over the base: one line per comparison, a dot per seed, the mean, and the paper's gain."""
    values = [v for row in rows for v in [*row["values"], row["paper"]] if v is not None]
    low, high = min(*values, 0.0), max(*values, 0.0)
    margin = 0.08 * (high - low or 1)
    step, left = 40, 168 if width >= 500 else 16
    lift = 0 if width >= 500 else 16
    height = 34 + (step + lift) * len(rows) + 30
    frame = Frame(width, height, left, 22, 34, 30, (low - margin, high + margin), (0, 1))
    parts = []
    for tick in round_numbers(*frame.x_range, 8 if width >= 500 else 5):
        x = frame.x(tick)
        style = "zero" if tick == 0 else "grid"
        parts.append(f'<line class="{style}" x1="{x:.1f}" x2="{x:.1f}" y1="28" y2="{height - 28}"/>')
        parts.append(text_at("tick", x, height - 10, _signed(tick), "middle"))
    for number, row in enumerate(rows):
        y = 34 + (step + lift) * number + step / 2 + lift
        place = (left - 18, y + 4, "end") if width >= 500 else (0, y - 16, "start")
        parts.append(text_at("row", place[0], place[1], row["name"], place[2]))
        parts += _gain(frame, row, y)
    parts += _gain_legend(frame.left if width >= 500 else 6)
    return picture(width, height, "Gain of AI-STA over base in BLEU, paper and here", parts)


def _gain(frame: Frame, row: Data, y: float) -> list[str]:
    parts = [rule("thread", frame.left, frame.width - frame.right, y)]
    for value in row["values"]:
        parts.append(
            dot("system faint", frame.x(value), y, 4, f"{row['name']}, one seed: {_signed(value, 1)}")
        )
    if row["values"]:
        mean = sum(row["values"]) / len(row["values"])
        parts.append(dot("system marked", frame.x(mean), y, 6, f"{row['name']}, mean: {_signed(mean, 1)}"))
    if row["paper"] is not None:
        parts.append(
            _diamond(frame.x(row["paper"]), y, f"{row['name']}, the paper: {_signed(row['paper'], 1)}")
        )
    return parts


def _signed(value: float, digits: int | None = None) -> str:
    """Write a number with its sign and a true minus; zero has none."""
    size = f"{abs(value):g}" if digits is None else f"{abs(value):.{digits}f}"
    return size if not float(size) else ("+" if value > 0 else "−") + size


def _diamond(x: float, y: float, told: str) -> str:
    path = f"M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z"
    return f'<path class="paper" d="{path}"><title>{escape(told)}</title></path>'


def _gain_legend(left: float) -> list[str]:
    parts = [_diamond(left + 7, 12, "paper"), text_at("tick", left + 19, 16, "the paper")]
    parts += [dot("system marked", left + 98, 12, 6, "mean"), text_at("tick", left + 109, 16, "here, mean")]
    return [
        *parts,
        dot("system faint", left + 190, 12, 4, "seed"),
        text_at("tick", left + 199, 16, "one seed"),
    ]


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


_HUES = {"ctc": "hue0", "contrastive": "hue1", "distillation": "hue2"}


def _style_of(system: str) -> str:
    """Return the class of a system: base and AI-STA as everywhere, others by hue, layer sets pale."""
    if system == "base":
        return "base"
    if system == "ai_sta":
        return "system"
    return _HUES.get(system, "pale" if system.startswith(("layer", "ai_sta")) else "hue3")


_DRAWINGS: Mapping[str, Callable[[Data, int], str]] = {
    "figure4": retrieval_by_layer,
    "figure5": maps,
    "figure6": correlation,
    "figure7": differences,
}
