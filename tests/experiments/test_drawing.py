"""One engine draws everything: what it is given is on the picture, in the frame, readable light and dark."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aista.figures import COLOURS, NARROW, WIDE, Canvas, apart, charts, signed

LINE = {
    "title": "Qwen2", "mrr": [0.9, 0.4, 0.1], "low": [0.8, 0.3, 0.05], "high": [0.95, 0.5, 0.2],
    "selected": [0, 1], "threshold": 0.197, "chance": 0.029, "num_pairs": 200,
}  # fmt: skip


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def places(canvas: Canvas) -> np.ndarray:
    """Where the text of a picture stands: (n, 2) pixels."""
    found = re.findall(r'<text[^>]* x="([-\d.]+)" y="([-\d.]+)"', str(canvas.svg()))
    return np.array(found, dtype=float)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_every_colour_of_words_can_be_read_on_every_ground(scheme: int) -> None:
    grounds = {"paper": COLOURS, "card": ("faint", "system", "soft"), "field": ("soft", "base", "system")}
    no_words = {"paper", "card", "field", "mark", "rule", "line"}
    for ground, roles in grounds.items():
        for role in set(roles) - no_words:
            assert contrast(COLOURS[role][scheme], COLOURS[ground][scheme]) >= 4.5, (role, ground)
    assert contrast(COLOURS["ink"][scheme], COLOURS["mark"][scheme]) >= 4.5


def test_a_picture_takes_its_colours_from_the_page_and_has_a_label() -> None:
    canvas = charts.retrieval({"lines": [LINE]})
    svg = str(canvas.svg())
    assert "var(--system)" in svg and not re.search(r"#[0-9a-f]{6}\b", re.sub(r"#[0-9a-f]{8}-", "", svg))
    assert svg.startswith('<svg class="plot" viewBox="0 0 720 ') and 'aria-label="Mean reciprocal rank' in svg
    alone = canvas.standalone()
    assert ElementTree.fromstring(alone).tag == "{http://www.w3.org/2000/svg}svg" and "dark" in alone
    assert canvas.png().startswith(b"\x89PNG")
    assert svg == str(charts.retrieval({"lines": [LINE]}).svg())  # the same numbers, the same bytes


def test_ids_of_two_pictures_do_not_meet() -> None:
    one, other = (str(charts.retrieval({"lines": [{**LINE, "chance": c}]}).svg()) for c in (0.029, 0.03))
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (one, other)]
    assert not ids[0] & ids[1]
    for svg, own in zip((one, other), ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) == own


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_levels_and_lines_are_named_at_every_width(width: int) -> None:
    found = " ".join(words(str(charts.retrieval({"lines": [LINE, {**LINE, "title": "Llama"}]}, width).svg())))
    for text in ("Qwen2", "Llama", "threshold 0.197", "chance 0.029", "mean reciprocal rank"):
        assert text in found


def drawings() -> dict[str, Any]:
    """A picture of each kind with numbers of our own."""
    series = [{"name": "base", "role": "base", "points": [(0, 1.0), (10, 0.5)]}]
    runs = [
        {"panel": "Qwen2, Chinese", "system": name, "title": name, "seed": 1, "log_wasserstein": 7 + i / 9,
         "bleu": 70 + i}
        for i, name in enumerate(("base", "ai_sta", "ctc", "layer_0", "contrastive", "an_own_method"))
    ]  # fmt: skip
    square = [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0]]
    panel = {
        "backbone": "q", "system": "ai_sta", "title": "AI-STA (selected)", "speech": square, "text": square,
        "contours": {"speech": [[square]], "text": [[square]]},
    }  # fmt: skip
    count = {
        "panel": "Qwen2, Chinese", "num_worse": 3, "num_equal": 1, "num_better": 2, "edges": [-10, 0, 10],
        "histogram": [3, 2],
    }  # fmt: skip
    difference = {
        "group": "little data", "name": "cosine", "title": "cosine", "measure": "BLEU", "mean": 1.0,
        "low": 0.2, "high": 1.8, "values": "1.0 1.5 0.5",
    }  # fmt: skip
    far = {**difference, "measure": "text BLEU", "mean": -7.0, "values": "-7"}
    empty: dict[str, Any] = {"name": "b", "values": [], "paper": None}
    plan = {"plan": [[0.5, 0.0], [0.125, 0.375]], "tokens": ["the", "dog"], "layer": 0, "value": 21.5}
    clip = {"source": "the dog", "maps": {"base": plan, "ai_sta": {**plan, "plan": [[0.5, 0.0], [0.0, 0.5]]}}}
    return {
        "retrieval": {"lines": [LINE]},
        "curves": {"title": "t", "log": True, "series": series},
        "pairs": {"rows": [{"name": "m", "base": 40.0, "system": 60.0, "base_half": 2, "system_half": 3}]},
        "gains": {"rows": [{"name": "a", "values": [1.0, -2.0], "paper": 0.7}, empty]},
        "maps": {"panels": [panel], "bounds": {"q": [-2, 2, -2, 2]}},
        "scatter": {"rows": runs, "correlations": []},
        "histograms": {"counts": [count]},
        "forest": {"rows": [difference, far]},
        "transport": {"clips": [clip, clip], "titles": {"base": "base", "ai_sta": "AI-STA (selected)"}},
    }  # fmt: skip


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", list(drawings()))
def test_words_stand_within_the_frame_and_none_is_missing(name: str, width: int) -> None:
    canvas = getattr(charts, name)(drawings()[name], width)
    svg = str(canvas.svg())
    assert "nan" not in svg and "None" not in svg
    assert canvas.width == width
    at = places(canvas)
    assert at.min() >= 0 and at[:, 0].max() <= canvas.width and at[:, 1].max() <= canvas.height
    ElementTree.fromstring(svg)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_labels_never_cover_each_other(heights: list[float]) -> None:
    placed = sorted(apart(heights, 14.0, 600.0))
    assert all(b - a >= 14.0 - 1e-9 for a, b in pairwise(placed)) and placed[-1] <= 600.0


def test_a_run_that_fell_far_does_not_flatten_the_rest() -> None:
    data = drawings()["scatter"]
    far = {**data["rows"][0], "system": "ai_sta_raw", "title": "AI-STA, literal cost", "bleu": 5.0}
    for width in (WIDE, NARROW):
        canvas = charts.scatter({**data, "rows": [*data["rows"], far]}, width)
        assert "literal 5.0" in words(str(canvas.svg()))
        marks = re.findall(r'<use href="#[^"]*" x="[-\d.]+" y="([-\d.]+)"', str(canvas.svg()))
        heights = np.array(marks, dtype=float)
        assert heights.max() - heights.min() > 150  # the others still use the whole height


def test_differences_far_off_stand_at_the_edge_with_their_number() -> None:
    assert "−7.0" in words(str(charts.forest(drawings()["forest"], 980).svg()))


def test_a_plan_shows_each_windows_shares() -> None:
    plan = {
        "plan": [[0.5, 0.0], [0.125, 0.375]], "tokens": ["the", " <dog>"], "role": "base", "label": "L",
        "samples": np.ones(100),
    }  # fmt: skip
    svg = str(charts.transport_plan(plan).svg())
    cells = re.findall(r'style="fill: var\(--base\)(?:; opacity: ([\d.]+))?', svg)
    assert sorted(float(opacity or 1) for opacity in cells) == [0.25, 0.75, 1.0]
    assert "&lt;dog&gt;" in svg and "<dog>" not in svg
    assert str(charts.waveform(np.zeros(10)).svg()).startswith("<svg")


def test_lines_without_points_are_left_out() -> None:
    empty = {"title": "t", "log": False, "series": [{"name": "a", "role": "base", "points": []}]}
    assert "nan" not in str(charts.curves(empty).svg())


@pytest.mark.parametrize("points", [(2.7, 3.7), (4e6, 9e6), (3e7, 8e9), (0.02, 30.0)])
def test_every_log_scale_has_numbers(points: tuple[float, float]) -> None:
    series = [{"name": "", "role": "base", "points": list(enumerate(points))}]
    found = words(str(charts.curves({"title": "t", "log": True, "series": series}).svg()))
    across = {"0", "0.2", "0.4", "0.6", "0.8", "1", "step", ""}
    assert len([word for word in found if word not in across]) >= 2, found


def test_signs() -> None:
    assert [signed(v) for v in (1.25, -0.75, 0.04, -0.04)] == ["+1.2", "−0.8", "0.0", "0.0"]
    assert [signed(v, None) for v in (2.5, -80, 0)] == ["+2.5", "−80", "0"]
