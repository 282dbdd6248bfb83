"""The drawings: each takes stored numbers and a width in pixels, and returns a canvas.

Below 500 pixels labels stand above what they name instead of beside it: a page draws everything twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle, groupby
from statistics import fmean, quantiles
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Polygon, Rectangle
from matplotlib.path import Path as Shape
from matplotlib.ticker import MaxNLocator

from aista.audio.rates import SAMPLES_PER_WINDOW
from aista.figures import WIDE, Canvas, apart, colour, signed

Data = Mapping[str, Any]
ALL_PANELS = "all panels"
_ROLES = {"base": "base", "ai_sta": "system", "ctc": "hue0", "contrastive": "hue1", "distillation": "hue2"}
_SHORT = {"ai_sta_raw": "literal", "layer_1_raw": "layer 1 literal"}
_FAR = 5.0  # in the forest, what lies further off stands at the edge with its number


def short_title(system: str, title: str) -> str:
    """Return what a system is called where there is little room: its title without brackets."""
    return _SHORT.get(system, title.split(" (")[0])


def role_of(system: str) -> str:
    """Return the colour of a system: base and AI-STA as everywhere, layer sets pale, the rest by hue."""
    return _ROLES.get(system, "line" if system.startswith(("layer", "ai_sta")) else "hue3")


def is_narrow(width: float) -> bool:
    """Whether this is a drawing for a phone."""
    return width < 500


# ---- axes and marks ----


def _ticks(low: float, high: float, about: int) -> list[float]:
    found = MaxNLocator(nbins=about, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in found if low - 1e-9 <= tick <= high + 1e-9]


def _plain(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _horizontal_rules(area: Axes, ticks: Iterable[float]) -> None:
    """Number the vertical scale, with a line across for each number."""
    shown = list(ticks)
    area.set_yticks(shown, [_plain(tick) for tick in shown])
    area.yaxis.grid(True, color=colour("rule"), linewidth=1)
    area.set_axisbelow(True)


def _numbers_below(
    area: Axes, ticks: Iterable[float], text: Callable[[float], str] = _plain, *, rules: bool = False
) -> None:
    """Number the horizontal scale, with a line upwards for each number where rules are wanted."""
    shown = list(ticks)
    area.set_xticks(shown, [text(tick) for tick in shown])
    if rules:
        area.xaxis.grid(True, color=colour("rule"), linewidth=1)
        area.set_axisbelow(True)


def _difference_scale(area: Axes, ends: tuple[float, float], about: int) -> None:
    """Number a scale of differences, with a stronger line at 0."""
    _numbers_below(area, _ticks(*ends, about), lambda tick: signed(tick, None), rules=True)
    area.axvline(0, color=colour("line"), linewidth=1.2)


def _place(canvas: Canvas, area: Axes, x: float, y: float) -> tuple[float, float]:
    """Return where a point of an area stands, in pixels from the left and from the top."""
    across, up = area.transData.transform((x, y))
    return float(across), canvas.height - float(up)


def _marks(
    area: Axes, points: tuple[Sequence[float], Sequence[float]], role: str, *,
    filled: bool = True, size: float = 8.0, opacity: float = 1.0, marker: str = "o",
) -> None:  # fmt: skip
    """Draw dots (all x, all y), or what else matplotlib calls a marker, of one colour."""
    inside = colour(role) if filled else colour("paper")
    area.plot(
        *points, marker, color=colour(role), markersize=size, markerfacecolor=inside, markeredgewidth=1.8,
        alpha=opacity, clip_on=False, zorder=4,
    )  # fmt: skip


def _level(area: Axes, value: float, role: str, style: Any) -> None:
    area.axhline(value, color=colour(role), linewidth=1.2, linestyle=style, zorder=1)


def _labels_at_right(canvas: Canvas, area: Axes, names: Sequence[tuple[float, str, str, bool]]) -> None:
    """Name lines at their right ends: (value, name, role, bold), none over another."""
    right, _ = _place(canvas, area, area.get_xlim()[1], 0)
    heights = [_place(canvas, area, 0, value)[1] + 4 for value, *_ in names]
    for height, (_, name, role, bold) in zip(apart(heights), names, strict=True):
        canvas.text(right + 9, height, name, role, font="name" if bold else "plain")


def _legend(canvas: Canvas, left: float, y: float, names: Sequence[tuple[str, str]]) -> None:
    """Write a line of coloured dots with their names."""
    for name, role in names:
        canvas.dot(left + 5, y - 4, role)
        canvas.text(left + 15, y, name, role, font="name")
        left += 36 + 7.2 * len(name)


# ---- Figure 4 and the demo's curve ----


def retrieval(data: Data, width: float = WIDE) -> Canvas:
    """Mean reciprocal rank at every layer, a line per backbone or cost; selected layers are filled.

    Args:
        data: ``lines`` of title, mrr, selected, threshold and chance; low, high, shuffled, length_only.
        width: In pixels.
    """
    lines, narrow = data["lines"], is_narrow(width)
    roles = ["system"] if len(lines) == 1 else [f"hue{i % 4}" for i in range(len(lines))]
    wide = max(122.0, 22 + 7.6 * max(len(line["title"]) for line in lines))
    right, top = (14.0, 26 + 20 * len(lines)) if narrow else (wide, 28)
    last = max(len(line["mrr"]) - 1 for line in lines)
    highest = max(max(*line["mrr"], *(line.get("high") or [0.0]), line["threshold"]) for line in lines)
    canvas = Canvas(width, 244 + top + (66 if narrow else 48), _RETRIEVAL)
    area = canvas.axes(40, top, width - 40 - right, 244, (0, last), (0.0, max(0.1, min(1.05, highest * 1.1))))
    _horizontal_rules(area, _ticks(0.0, area.get_ylim()[1], 5))
    _numbers_below(area, range(0, last + 1, max(1, round(last / (7 if narrow else 12)))))
    canvas.text(0, top - 12, "mean reciprocal rank")
    canvas.text(
        40 + (width - 40 - right) / 2, top + 244 + 38, "layer (0: what enters the LLM)", anchor="center"
    )
    names = []
    for line, role in zip(lines, roles, strict=True):
        _retrieval_line(area, line, role)
        names.append((line["mrr"][-1], line["title"], role, True))
    for key, name, role, style in _LEVELS:
        for value in sorted({round(line[key], 5) for line in lines if line.get(key) is not None}):
            _level(area, value, role, style)
            names.append((value, f"{name} {value:.3f}", "system" if key == "threshold" else "faint", False))
    if not narrow:
        _labels_at_right(canvas, area, names)
        return canvas
    for i, (line, role) in enumerate(zip(lines, roles, strict=True)):
        _legend(canvas, 40, 16 + 20 * i - (0 if len(lines) > 1 else 2), [(line["title"], role)])
    levels = [name for _, name, _, bold in names if not bold]
    canvas.text(40, canvas.height - 6, "dashed: " + " · ".join(levels), "faint")
    return canvas


_LEVELS: tuple[tuple[str, str, str, Any], ...] = (
    ("threshold", "threshold", "system", (0, (5, 4))), ("chance", "chance", "line", (0, (1.5, 3))),
    ("length_only", "lengths alone", "line", (0, (6, 2, 1.5, 2))),
)  # fmt: skip
_RETRIEVAL = "Mean reciprocal rank of the right transcript at every layer"


def _retrieval_line(area: Axes, line: Data, role: str) -> None:
    mrr, chosen = line["mrr"], line["selected"]
    layers = range(len(mrr))
    area.plot(layers, mrr, color=colour(role), linewidth=2, clip_on=False, zorder=3)
    if line.get("high") and all(v is not None for v in (*line["low"], *line["high"])):
        area.fill_between(layers, line["low"], line["high"], color=colour(role), alpha=0.14, linewidth=0)
    if shuffled := [(i, v) for i, v in enumerate(line.get("shuffled") or []) if v is not None]:
        area.plot(*zip(*shuffled, strict=True), color=colour("line"), linewidth=1.2)
    others = [i for i in layers if i not in chosen]
    _marks(area, (others, [mrr[i] for i in others]), role, filled=False, size=6.5)
    _marks(area, (chosen, [mrr[i] for i in chosen]), role, size=9)


PROBED = ("system", "base", "hue0", "hue1", "hue2", "hue3")


def probed(data: Data, width: float = WIDE) -> Canvas:
    """Mean reciprocal rank over depth, a line per model: the paper's Figure 4 for any models.

    Args:
        data: ``panels`` of title, ``levels`` (name -> value, drawn across) and ``lines`` of title, role and
            points (depth from 0 to 1, MRR).
        width: In pixels.
    """
    panels, narrow = data["panels"], is_narrow(width)
    names = list(dict.fromkeys((line["title"], line["role"]) for panel in panels for line in panel["lines"]))
    across = 1 if narrow or len(panels) == 1 else 2
    side, tall = (width - 28 * (across - 1)) / across, 220 if len(panels) == 1 else 170
    room = 7.2 * max(len(name) for name, _ in names) + 36
    columns = max(1, int(width // room))
    head = 20 * -(-len(names) // columns) + 10
    step = tall + 34 + 16 * max(len(panel["levels"]) for panel in panels) + 62
    canvas = Canvas(width, head + step * -(-len(panels) // across), _RETRIEVAL)
    for number, name in enumerate(names):
        _legend(canvas, number % columns * room, 14 + 20 * (number // columns), [name])
    found = [up for panel in panels for line in panel["lines"] for _, up in line["points"]]
    highest = max(*found, *(value for panel in panels for value in panel["levels"].values()))
    for number, panel in enumerate(panels):
        left, top = number % across * (side + 28), head + number // across * step
        canvas.text(left, top + 14, panel["title"], "soft")
        area = canvas.axes(left + 40, top + 28, side - 48, tall, (0.0, 1.0), (0.0, min(1.05, highest * 1.1)))
        _horizontal_rules(area, _ticks(0.0, area.get_ylim()[1], 5))
        _numbers_below(area, (0.0, 0.25, 0.5, 0.75, 1.0))
        for line in panel["lines"]:
            x, y = zip(*line["points"], strict=True)
            area.plot(x, y, color=colour(line["role"]), linewidth=2, clip_on=False, zorder=3)
            _marks(area, (x, y), line["role"], filled=False, size=6 if len(x) < 40 else 4)
        below = top + 28 + tall + 38
        canvas.text(left + 40 + (side - 48) / 2, below, "depth: layer / last layer", anchor="center")
        styles = ((0, (1.5, 3)), (0, (5, 4)), (0, (6, 2, 1.5, 2)), "-")
        for row, ((name, value), style) in enumerate(
            zip(panel["levels"].items(), cycle(styles), strict=False)
        ):
            _level(area, value, "line", style)
            key = canvas.axes(left + 40, below + 8 + 16 * row, 30, 12, (0, 1), (0, 1))
            key.plot([0, 1], [0.4, 0.4], color=colour("line"), linewidth=1.2, linestyle=style)
            canvas.text(left + 78, below + 18 + 16 * row, f"{name} {value:.3f}", "faint")
    return canvas


# ---- the demo: learning curves and pairs of scores ----


def curves(data: Data, width: float = WIDE) -> Canvas:
    """Lines over the steps of a training: ``title``, ``log`` and ``series`` of name, role and points.

    ``across`` names the horizontal scale, where it is not steps, and ``ticks`` its numbers, text by place;
    ``least`` is where the vertical one begins.
    """
    narrow = is_narrow(width)
    right, top = (14, 34) if narrow else (86, 14)
    series = [row for row in data["series"] if row["points"]]
    canvas = Canvas(width, top + 170 + 46, data["title"])
    across = [x for row in series for x, _ in row["points"]] or [0.0, 1.0]
    up = [y for row in series for _, y in row["points"]] or [0.0, 1.0]
    ends: tuple[float, float] = (
        (max(min(up), 1e-6) / 1.3, max(up) * 1.3) if data.get("log") else _air(up, 0.06)
    )
    ends = (max(ends[0], data.get("least", ends[0])), ends[1])
    area = canvas.axes(52, top, width - 52 - right, 170, _air(across, 0.0), ends)
    if data.get("log"):
        area.set(yscale="log", ylim=ends)
        area.minorticks_off()
        powers = [10.0**n * factor for n in range(-6, 16) for factor in (1, 2, 5)]
        inside = [tick for tick in powers if ends[0] <= tick <= ends[1]]
        if len(inside) > 6:
            inside = [tick for tick in inside if f"{tick:e}"[0] == "1"]
        _horizontal_rules(area, inside if len(inside) > 1 else _ticks(*ends, 4))
    else:
        _horizontal_rules(area, _ticks(*ends, 4))
    if ticks := data.get("ticks"):
        _numbers_below(area, ticks, ticks.get)
    else:
        _numbers_below(area, _ticks(min(across), max(across), 4 if narrow else 8))
    canvas.text(52 + (width - 52 - right) / 2, top + 170 + 38, data.get("across", "step"), anchor="center")
    for row in series:
        x, y = zip(*row["points"], strict=True)
        area.plot(x, y, color=colour(row["role"]), linewidth=2, clip_on=False)
        if len(x) < 15:
            _marks(area, (x, y), row["role"], filled=False, size=6)
    if narrow:
        _legend(canvas, 52, 16, [(row["name"], row["role"]) for row in series])
    else:
        names = [(row["points"][-1][1], row["name"], row["role"], True) for row in series]
        _labels_at_right(canvas, area, names)
    return canvas


def _air(values: Sequence[float], share: float) -> tuple[float, float]:
    """Return the ends of values with some air at both; equal values get some too."""
    low, high = min(values), max(values)
    air = share * (high - low) if high > low else 0.5
    return low - air, high + air


def pairs(data: Data, width: float = WIDE) -> Canvas:
    """Base and AI-STA on one scale: ``rows`` of name, base, system and the half widths of their intervals."""
    rows, narrow = data["rows"], is_narrow(width)
    left, step, lift = (8, 34, 18) if narrow else (200, 46, 0)
    least = min(min(row["base"] - row["base_half"], row["system"] - row["system_half"]) for row in rows)
    low = max(0.0, 10 * np.floor((least - 2) / 10))
    tall = (step + lift) * len(rows)
    canvas = Canvas(width, 34 + tall + 34, "BLEU of base and AI-STA with their 95 % intervals")
    area = canvas.axes(left, 34, width - left - 16, tall, (low, 100.0), (0.0, float(tall)))
    _numbers_below(area, _ticks(low, 100, 5 if narrow else 8), rules=True)
    for number, row in enumerate(rows):
        y = tall - (step + lift) * number - step / 2 - lift
        place = (left, 34 + tall - y - 17, "left") if narrow else (left - 18, 34 + tall - y + 4, "right")
        canvas.text(place[0], place[1], row["name"], "ink", anchor=place[2], font="row")
        area.plot([row["base"], row["system"]], [y, y], color=colour("line"), linewidth=1.4)
        for key, shift in (("base", 3.5), ("system", -3.5)):
            half = row[f"{key}_half"]
            ends = [max(row[key] - half, low), min(row[key] + half, 100.0)]
            area.plot(ends, [y + shift] * 2, color=colour(key), alpha=0.25, linewidth=6, clip_on=False)
            _marks(area, ([row[key]], [y + shift]), key, size=9)
    _legend(canvas, left, 16, [("base", "base"), ("AI-STA", "system")])
    return canvas


# ---- Table 2: gains over the base ----


def gains(data: Data, width: float = WIDE) -> Canvas:
    """Gains over the base: ``rows`` of name, ``values`` (one per seed) and ``paper`` (its gain, or None)."""
    rows, narrow = data["rows"], is_narrow(width)
    left, step, lift = (10, 40, 16) if narrow else (186, 40, 0)
    values = [v for row in rows for v in [*row["values"], row["paper"]] if v is not None]
    ends = _air([*values, 0.0], 0.08)
    tall = (step + lift) * len(rows)
    canvas = Canvas(width, 34 + tall + 34, "Gain of AI-STA over base in BLEU, paper and here")
    area = canvas.axes(left, 34, width - left - 22, tall, ends, (0.0, float(tall)))
    _difference_scale(area, ends, 5 if narrow else 8)
    for number, row in enumerate(rows):
        y = tall - (step + lift) * number - step / 2 - lift
        place = (0, 34 + tall - y - 16, "left") if narrow else (left - 18, 34 + tall - y + 4, "right")
        canvas.text(place[0], place[1], row["name"], "ink", anchor=place[2], font="row")
        area.plot(ends, [y, y], color=colour("rule"), linewidth=1, zorder=1)
        _marks(area, (row["values"], [y] * len(row["values"])), "system", size=7, opacity=0.4)
        if row["values"]:
            _marks(area, ([fmean(row["values"])], [y]), "system", size=11)
        if row["paper"] is not None:
            _marks(area, ([row["paper"]], [y]), "ink", filled=False, size=9, marker="D")
    key = canvas.axes(left, 4, 24, 16, (0, 24), (0, 16))
    _marks(key, ([6], [8]), "ink", filled=False, size=8, marker="D")
    canvas.text(left + 17, 16, "the paper")
    canvas.dot(left + 96, 12, "system", 10)
    canvas.text(left + 108, 16, "here, mean; pale: one seed")
    return canvas


# ---- Figure 5 ----


def maps(data: Data, width: float = WIDE) -> Canvas:
    """Mean representations of clips and transcripts in a plane with their density, a panel per model."""
    panels = data["panels"]
    side, place, rows = _panels(len(panels), width, 20)
    canvas = Canvas(width, rows * (side + 34), "Speech and text representations before the language model")
    for number, panel in enumerate(panels):
        left, top = place(number, side + 34)
        low_x, high_x, low_y, high_y = data["bounds"][panel["backbone"]]
        role = role_of(panel["system"])
        canvas.text(left, top + 16, short_title("", panel["title"]), role, font="name")
        area = canvas.axes(left, top + 26, side, side, (low_x, high_x), (low_y, high_y))
        ground = Rectangle((low_x, low_y), high_x - low_x, high_y - low_y, color=colour("field"), zorder=-1)
        area.add_patch(ground)
        for kind, own in (("text", "soft"), ("speech", role)):
            for pieces in reversed(panel["contours"][kind]):
                for piece in pieces:
                    area.add_patch(Polygon(piece, color=colour(own), alpha=0.1, linewidth=0))
                    area.add_patch(Polygon(piece, fill=False, edgecolor=colour(own), alpha=0.45))
        for kind, own in (("text", "soft"), ("speech", role)):
            spots = [point for point in panel[kind] for _ in range(2)]  # strokes of no length
            area.add_patch(_strokes(spots, own, 3, alpha=0.55))
        _legend(canvas, left + 10, top + 26 + side - 12, [("speech", role), ("text", "soft")])
    return canvas


def _strokes(ends: Any, role: str, width: float, **options: Any) -> PathPatch:
    """Return many strokes with round ends as one shape: begin, end, begin, end ... of (x, y)."""
    shape = Shape(np.array(ends), [Shape.MOVETO, Shape.LINETO] * (len(ends) // 2))
    shape.should_simplify = False
    return PathPatch(shape, fill=False, edgecolor=colour(role), linewidth=width, capstyle="round", **options)


def _panels(
    count: int, width: float, gap: float
) -> tuple[float, Callable[[int, float], tuple[float, float]], int]:
    """Return the width of a panel, where panel number n of some height stands, and the number of rows."""
    across = 1 if is_narrow(width) else 2
    side = (width - gap * (across - 1)) / across

    def place(number: int, height: float) -> tuple[float, float]:
        return number % across * (side + gap), number // across * height

    return side, place, -(-count // across)


# ---- Figure 6 ----


def scatter(data: Data, width: float = WIDE) -> Canvas:
    """Log Wasserstein against BLEU: a panel per backbone and direction, a dot per run."""
    found: dict[str, list[Data]] = defaultdict(list)
    for row in data["rows"]:
        found[row["panel"]].append(row)
    side, place, rows = _panels(len(found), width, 24)
    canvas = Canvas(width, rows * 328, "Transport cost against translation quality, one dot per run")
    for number, (title, runs) in enumerate(found.items()):
        left, top = place(number, 328)
        canvas.text(left, top + 14, f"{title}, BLEU", "ink", font="row")
        canvas.text(left, top + 31, _pearson(data, title), "faint")
        _runs(canvas, (left, top + 46, side), runs)
    return canvas


def _runs(canvas: Canvas, where: tuple[float, float, float], runs: Sequence[Data]) -> None:
    """Draw one panel: each system is named at the right; runs that lie far off stand at the edge."""
    left, top, side = where
    near = _near(runs)
    across, up = (_air([run[key] for run in near], 0.1) for key in ("log_wasserstein", "bleu"))
    area = canvas.axes(left + 36, top, side - 36 - 112, 216, across, up)
    _horizontal_rules(area, _ticks(*up, 4))
    _numbers_below(area, _ticks(*across, 4))
    canvas.text(
        left + 36 + (side - 148) / 2, top + 216 + 38, "log Wasserstein (smaller: closer)", anchor="center"
    )
    last = {run["system"]: run for run in sorted(runs, key=lambda run: run["log_wasserstein"])}
    spots = {system: _held(run, across, up) for system, run in last.items()}
    order = sorted(last, key=lambda system: -spots[system][1])
    heights = apart([_place(canvas, area, *spots[s])[1] + 4 for s in order], 14, top + 216 + 6)
    edge = left + side - 112 + 8
    for system, height in zip(order, heights, strict=True):
        x, y = _place(canvas, area, *spots[system])
        line = [(x + 6, y), (max(x + 6, edge - 14), y), (edge - 3, height - 4)]
        shape = Shape([(x / canvas.width, 1 - y / canvas.height) for x, y in line])
        leader = PathPatch(
            shape, transform=canvas.sheet.transFigure, fill=False, edgecolor=colour("line"), linewidth=0.8,
            linestyle=(0, (1, 3)),
        )  # fmt: skip
        canvas.sheet.add_artist(leader)
        role, name = role_of(system), _run_name(last[system], near)
        canvas.text(edge, height, name, "faint" if role == "line" else role, font="small")
    for run in runs:
        role, (x, y) = role_of(run["system"]), _held(run, across, up)
        _marks(area, ([x], [y]), role, filled=role != "line", size=7, marker="o" if run in near else "v")


def _held(run: Data, across: tuple[float, float], up: tuple[float, float]) -> tuple[float, float]:
    """Return where a run stands; beyond the panel, at its edge."""
    x, y = run["log_wasserstein"], run["bleu"]
    return min(max(x, across[0]), across[1]), min(max(y, up[0]), up[1])


def _near(runs: Sequence[Data]) -> list[Data]:
    """Return the runs within Tukey's outer fences of BLEU: one that fell far would flatten the rest."""
    values = sorted(run["bleu"] for run in runs)
    if len(values) < 5:
        return list(runs)
    first, _, third = quantiles(values, n=4, method="inclusive")
    reach = 3 * max(third - first, 1.0)
    return [run for run in runs if first - reach <= run["bleu"] <= third + reach]


def _run_name(run: Data, near: Sequence[Data]) -> str:
    """Return a system's name as far as there is room, with its BLEU where that lies outside the panel."""
    name = short_title(run["system"], run["title"])
    name = name if run in near else f"{name} {run['bleu']:.1f}"
    return name if len(name) <= 15 else name[:14].rstrip(" ,(") + "…"


def _pearson(data: Data, panel: str) -> str:
    """Return a panel's coefficient with its interval, if it has one."""
    for row in data["correlations"]:
        if row["over"] == panel and row["coefficient"] == "Pearson" and row["low"] is not None:
            ends = f"{signed(row['low'], 2)} to {signed(row['high'], 2)}"
            return f"r = {signed(row['value'], 2)} (95 %: {ends}), {row['n']} runs"
    return ""


# ---- Figure 7 ----


def histograms(data: Data, width: float = WIDE) -> Canvas:
    """By how much sentences are better or worse: ``counts``, a panel per backbone and language."""
    panels = data["counts"]
    side, place, rows = _panels(len(panels), width, 36)
    canvas = Canvas(width, rows * 166, "How many sentences are better or worse, and by how much")
    for number, panel in enumerate(panels):
        left, top = place(number, 166)
        edges, counts = panel["edges"], panel["histogram"]
        canvas.text(left, top + 13, panel["panel"], "ink", font="row")
        told = f"{panel['num_worse']} worse · {panel['num_equal']} equal · {panel['num_better']} better"
        canvas.text(left, top + 30, told, "faint")
        area = canvas.axes(left + 8, top + 44, side - 16, 84, (edges[0], edges[-1]), (0, max(*counts, 1)))
        for low, high, count in zip(edges, edges[1:], counts, strict=False):
            role = "system" if low >= 0 else "base"
            gap = 0.06 * (high - low)
            area.add_patch(
                Rectangle((low + gap, 0), high - low - 2 * gap, count, color=colour(role), alpha=0.8)
            )
        area.axhline(0, color=colour("line"), linewidth=1.2, clip_on=False)
        _numbers_below(area, (edges[0], 0, edges[-1]), lambda tick: signed(tick, None))
    return canvas


# ---- the study ----


def forest(data: Data, width: float = 980) -> Canvas:
    """Differences to a base: a line per variant, a panel per measure; seeds as dots, the interval as a bar.

    Args:
        data: ``rows``, one per variant and measure: ``group``, ``name``, ``title``, ``measure``, ``mean``,
            ``low`` and ``high`` (None for one seed), ``values`` (one text); the measures of a variant follow
            one another. ``far``: what lies further from 0 stands at the edge, with its number. ``whole``:
            intervals are drawn to their ends, not as far as the seeds reach.
        width: In pixels.
    """
    rows, narrow = data["rows"], is_narrow(width)
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    labels, gap, step = (0, 26, 40) if narrow else (392, 36, 26)
    head, foot = 34, 46
    variants = [list(found) for _, found in groupby(rows, key=lambda row: row["name"])]
    groups = [(name, list(found)) for name, found in groupby(variants, key=lambda rows: rows[0]["group"])]
    tall = head * len(groups) + step * len(variants)
    canvas = Canvas(width, tall + foot, "Difference of every variant to its base")
    side = (width - labels - gap * len(measures) - 8) / len(measures)
    areas = {}
    for i, name in enumerate(measures):
        here = [row for row in rows if row["measure"] == name]
        ends = [value for row in here for value in _values(row)]
        if data.get("whole"):
            ends += [row[end] for row in here for end in ("low", "high") if row[end] is not None]
        far = data.get("far", _FAR)
        reach = max(min(*ends, -1.0), -far), min(max(*ends, 1.0), far)
        left = labels + i * (side + gap) + 8
        areas[name] = area = canvas.axes(left, 0, side, tall, reach, (0.0, float(tall)))
        _difference_scale(area, reach, 4 if narrow else 6)
        canvas.text(left + side / 2, tall + 38, f"difference in {name}", anchor="center")
    y, font = 0.0, "plain" if narrow else "row"
    for name, found in groups:
        y += head
        canvas.text(0, y - 8, name, "soft", font="name")
        for variant in found:
            y += step
            place = (0, y - 25, "left") if narrow else (labels - 14, y - step / 2 + 4, "right")
            canvas.text(place[0], place[1], variant[0]["title"], "ink", anchor=place[2], font=font)
            for row in variant:
                _difference(areas[row["measure"]], row, tall - y + (9 if narrow else step / 2))
    return canvas


def _difference(area: Axes, row: Data, y: float) -> None:
    low, high = area.get_xlim()
    role = "system" if (row["low"] or 0) > 0 else "base" if (row["high"] or 0) < 0 else "soft"
    values = [min(max(value, low), high) for value in (row["mean"], *_values(row))]
    if row["low"] is not None:
        ends = [min(max(row[end], low), high) for end in ("low", "high")]
        area.plot(ends, [y, y], color=colour(role), alpha=0.25, linewidth=6, solid_capstyle="round")
    _marks(area, (values[1:], [y] * (len(values) - 1)), role, size=4.5, opacity=0.4)
    _marks(area, (values[:1], [y]), role, size=8)
    if not low <= row["mean"] <= high:
        area.annotate(
            signed(row["mean"]), (values[0], y), (8, -4), textcoords="offset points", fontsize=12,
            color=colour("faint"), annotation_clip=False,
        )  # fmt: skip


def _values(row: Data) -> list[float]:
    return [float(value) for value in str(row["values"]).split()]


# ---- sound and transport ----


def waveform(samples: np.ndarray) -> Canvas:
    """The loudness of a clip over time as mirrored bars (the peak of each stretch)."""
    canvas, bars = Canvas(WIDE, 64, "waveform"), 120
    _wave(canvas.axes(0, 0, WIDE, 64, (0, bars), (-1, 1)), samples, bars, WIDE / bars * 0.55)
    return canvas


def _wave(area: Axes, samples: np.ndarray, bars: int, stroke: float) -> None:
    peaks = np.array([np.abs(part).max(initial=0.0) for part in np.array_split(samples, bars)])
    reach = np.maximum(0.03, 0.94 * peaks / (peaks.max() or 1.0))
    points = [(i + 0.5, sign * half) for i, half in enumerate(reach) for sign in (-1, 1)]
    area.add_patch(_strokes(points, "line", stroke, clip_on=False))


CELL, GUTTER, WAVE = 26, 92, 44


def transport_plan(data: Data, width: float | None = None) -> Canvas:
    """A transport plan: columns are speech tokens, rows are tokens, a dark cell is much mass.

    Each column is shown as shares of its token's mass: one that goes to one text token is one dark cell.

    Args:
        data: ``plan`` (n speech tokens x m text tokens), ``tokens``, ``role``, ``label``, and ``samples``,
            the sound, drawn above; ``samples_per_token`` (by default a window's), silence fills the last.
        width: Of the picture at most; by default a cell is 26 pixels wide.
    """
    n, m = np.shape(data["plan"])
    cell, tall = plan_cell(n, width), CELL if m <= 24 else 18
    canvas = Canvas(GUTTER + n * cell + 4, WAVE + m * tall + 26, data["label"])
    sound = np.zeros(n * data.get("samples_per_token", SAMPLES_PER_WINDOW), dtype=np.float32)
    samples = np.asarray(data["samples"], dtype=np.float32)[: len(sound)]
    sound[: len(samples)] = samples
    bars = max(1, round(n * cell / (CELL / 5)))
    _wave(canvas.axes(GUTTER, 0, n * cell, 38, (0, bars), (-1, 1)), sound, bars, CELL / 9)
    _shares(canvas, (0, WAVE), (cell, tall), data)
    return canvas


def transport(data: Data, width: float = WIDE) -> Canvas:
    """The transport plans of each clip, a panel per system.

    Args:
        data: ``clips``, each with its ``source`` and ``maps``: system -> ``plan``, ``tokens``, ``layer`` and
            ``value``; and ``titles`` of the systems.
    """
    tall, head, foot, top, clips = 20, 62, 30, 0.0, []
    for clip in data["clips"]:
        side, place, lines = _panels(len(clip["maps"]), width, 20)
        size = head + tall * max(len(found["tokens"]) for found in clip["maps"].values()) + foot
        clips.append((clip, place, size, top))
        top += lines * size
    canvas = Canvas(width, top, "Transport plans between speech tokens and transcripts")
    for clip, place, size, top in clips:
        canvas.text(0, top + 18, clip["source"], "ink", font="row")
        for number, (system, found) in enumerate(clip["maps"].items()):
            left, down = place(number, size)
            down += top
            title = f"{short_title('', data['titles'][system])}, layer {found['layer']}"
            canvas.text(left, down + 42, title, role_of(system), font="name")
            canvas.text(left + side, down + 42, f"W = {found['value']:.3g}", "soft", anchor="right")
            cell = plan_cell(len(found["plan"]), side), tall
            _shares(canvas, (left, down + head - 10), cell, {**found, "role": role_of(system)})
    return canvas


def _shares(canvas: Canvas, place: tuple[float, float], cell: tuple[float, float], data: Data) -> None:
    """Draw a plan's cells, the tokens before its rows and the numbers below its columns."""
    shares = np.asarray(data["plan"], dtype=float)
    shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    (n, m), (wide, tall), left, top = shares.shape, cell, place[0] + GUTTER, place[1]
    area = canvas.axes(left, top, n * wide, m * tall, (0, n), (m, 0))
    area.add_patch(Rectangle((0, 0), n, m, color=colour("field"), linewidth=0))
    gap = 0.04 if wide > 12 else 0.0
    for i, j in zip(*np.nonzero(shares > 0.005), strict=True):
        area.add_patch(
            Rectangle(
                (i + gap, j + 0.04), 1 - 2 * gap, 0.92, color=colour(data["role"]),
                alpha=round(shares[i, j], 2), linewidth=0,
            )
        )  # fmt: skip
    for j, token in enumerate(data["tokens"]):
        middle = top + (j + 0.5) * tall + 4.5
        canvas.text(left - 9, middle, token.strip() or "␣", "ink", anchor="right", font="token")
    room = 24 if n < 100 else 34
    every = next(k for k in (1, 5, 10, 25, 50, 100, 250, 1000) if wide * k >= room or k == 1000)
    for i in range(every - 1, n, every):
        below = top + m * tall + 18
        canvas.text(left + (i + 0.5) * wide, below, str(i + 1), "faint", anchor="center")


def plan_cell(columns: int, width: float | None) -> float:
    """Return how wide a column of a transport plan is, in pixels."""
    return CELL if width is None else min(CELL, (width - GUTTER - 4) / columns)


DRAWINGS: Mapping[str, Callable[..., Canvas]] = {
    "figure4": retrieval,
    "figure5": maps,
    "figure6": scatter,
    "figure7": histograms,
    "gains": gains,
    "transport": transport,
    "study_figure": forest,
}
