"""Pictures made of dots: transport cost against translation (Figure 6), gains over the base."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from statistics import quantiles
from typing import Any

from aista.evaluation.drawing import Frame, apart, dot, picture, round_numbers, rule, text_at, x_axis, y_axis
from aista.reproduce.styles import short_title, signed_text, style_of

Data = Mapping[str, Any]
_WIDTH_OF_LETTER = 6.2  # of 11 pixels, bold


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
    """Return one panel: a dot per run, each system named at the right; far outliers stand at the edge."""
    near = _near(rows)
    across, up = (_stretched([row[key] for row in near]) for key in ("log_wasserstein", "bleu"))
    frame = Frame(width, height, 36, 104, 50, 44, across, up)
    parts = [text_at("row", 0, 14, f"{title}, BLEU"), text_at("tick", 0, 31, told), *y_axis(frame)]
    parts += x_axis(frame, round_numbers(*across, 4), "log Wasserstein (smaller: closer)")
    systems: dict[str, list[Data]] = defaultdict(list)
    for row in rows:
        systems[row["system"]].append(row)
    last = {key: max(runs, key=lambda run: run["log_wasserstein"]) for key, runs in systems.items()}
    names = sorted((_place(frame, run)[1], _name(run, near), key) for key, run in last.items())
    edge = width - frame.right + 8
    for (y, name, system), (_, at) in zip(names, _in_bounds(names, frame), strict=True):
        parts.append(_leader(_place(frame, last[system])[0] + 6, y, edge - 3, at))
        shown = _short(name, frame.right - 8)
        parts.append(text_at(f"name small {style_of(system)}", edge, at + 4, shown))
    for row in rows:
        told = f"{row['title']}, seed {row['seed']}: {row['bleu']:.1f} BLEU at {row['log_wasserstein']:.2f}"
        mark = dot if row in near else _arrow
        parts.append(mark(f"{style_of(row['system'])} marked", *_place(frame, row), 4, told))
    return parts


def _near(rows: Sequence[Data]) -> list[Data]:
    """Return the runs within Tukey's outer fences of BLEU: one that fell far would flatten the rest."""
    values = sorted(row["bleu"] for row in rows)
    if len(values) < 5:
        return list(rows)
    first, _, third = quantiles(values, n=4, method="inclusive")
    reach = 3 * max(third - first, 1.0)
    return [row for row in rows if first - reach <= row["bleu"] <= third + reach]


def _place(frame: Frame, run: Data) -> tuple[float, float]:
    """Return where a run stands; beyond the frame, at its edge."""
    x = min(max(run["log_wasserstein"], frame.x_range[0]), frame.x_range[1])
    y = min(max(run["bleu"], frame.y_range[0]), frame.y_range[1])
    return frame.x(x), frame.y(y)


def _name(run: Data, near: Sequence[Data]) -> str:
    """Return a system's name, with its BLEU where that lies outside the frame."""
    name = short_title(run["system"], run["title"])
    return name if run in near else f"{name} {run['bleu']:.1f}"


def _arrow(style: str, x: float, y: float, radius: float, told: str) -> str:
    path = f"M{x - radius:.1f} {y - radius:.1f}h{2 * radius}l{-radius} {1.6 * radius}z"
    return f'<path class="dot {style}" d="{path}"><title>{escape(told)}</title></path>'


def _pearson(data: Data, panel: str) -> str:
    """Return a panel's coefficient with its interval, if it has one."""
    for row in data["correlations"]:
        if row["over"] == panel and row["coefficient"] == "Pearson" and row["low"] is not None:
            low, high = signed_text(row["low"], 2), signed_text(row["high"], 2)
            return f"r = {signed_text(row['value'], 2)} (95 %: {low} to {high}), {row['n']} runs"
    return ""


def _stretched(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of values with some air at both ends."""
    low, high = min(values), max(values)
    air = 0.1 * ((high - low) or 1.0)
    return low - air, high + air


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
        parts.append(text_at("tick", x, height - 10, signed_text(tick), "middle"))
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
            dot("system faint", frame.x(value), y, 4, f"{row['name']}, one seed: {signed_text(value, 1)}")
        )
    if row["values"]:
        mean = sum(row["values"]) / len(row["values"])
        told = f"{row['name']}, mean: {signed_text(mean, 1)}"
        parts.append(dot("system marked", frame.x(mean), y, 6, told))
    if row["paper"] is not None:
        parts.append(
            _diamond(frame.x(row["paper"]), y, f"{row['name']}, the paper: {signed_text(row['paper'], 1)}")
        )
    return parts


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
