"""The page holds everything and needs nothing; its words follow from its numbers."""

from __future__ import annotations

import base64
import copy
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from aista.audio.files import load_audio
from aista.demo.findings import findings, headline
from aista.demo.report import render
from aista.evaluation.charts import Level, Pair, Series, dumbbells, heat_map, line_chart, waveform
from aista.evaluation.page import Row, marked_difference, signed, sound_uri, table
from tests.evaluation import invented

VOID = {"meta", "link", "br"}


class Checker(HTMLParser):
    """Collects ids and addresses, and demands that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.addresses += [values[key] for key in ("src", "href") if key in values]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page() -> str:
    return render(invented.data())


def test_the_page_is_whole_and_reaches_for_nothing_outside(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids) >= 7
    outside = [a for a in checker.addresses if not a.startswith(("data:", "#"))]
    assert outside == [] and "http" not in page and "@import" not in page and "url(" not in page
    assert all(address[1:] in checker.ids for address in checker.addresses if address.startswith("#"))
    assert "$" not in re.sub(r"base64,[^\"]*", "", page)


def test_the_essentials_are_in_the_text_itself(page):
    without_script = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    for words in (
        "72.7",
        "66.1",
        "−6.6",
        "&lt; 0.01",
        "tok:ja-mecab",
        "医生昨天在公园",
        "layer 0",
        invented.NOTICE,
    ):
        assert words in without_script
    assert without_script.count("<audio controls") == 5  # three clips, two of them with plans again
    assert "test_common" not in without_script and "test common" in without_script


def test_a_page_of_bare_results(page):
    data = invented.data()
    bare = render(replace(data, comparisons={}, clips=(), histories={}, configs={}, notice=""))
    assert 'id="heard"' not in bare and 'id="plans"' not in bare and 'id="learnt"' not in bare
    assert 'class="banner"' not in bare and "was not tested" in bare


def test_texts_cannot_break_the_page():
    data = invented.data()
    evil = replace(data.clips[0], source="<script>alert(1)</script>", note='"><u>')
    page = render(replace(data, clips=(evil,)))
    assert "<script>alert" not in page and '"><u>' not in page


@pytest.mark.parametrize(
    ("gains", "p", "words"),
    [
        ((5.0, 5.0), 0.001, "better."),
        ((-5.0, -5.0), 0.001, "worse."),
        ((5.0, -5.0), 0.001, "not always for the better"),
        ((5.0, -5.0), 0.5, "as good as it was"),
    ],
)
def test_the_headline_says_what_came_out(gains, p, words):
    results = copy.deepcopy(invented.results())
    for name, gain in zip(("bleu_zh", "bleu_ja"), gains, strict=True):
        results["systems"]["ai_sta"][name] = results["systems"]["base"][name] + gain
    assert words in headline(results, {name: {"p_value": p} for name in ("bleu_zh", "bleu_ja")})


def test_findings_name_losses_as_losses_and_luck_as_luck():
    found = dict(findings(invented.results(), invented.comparisons()))
    assert "AI-STA is worse" in found["Speech into Chinese"] and "−6.6" in found["Speech into Chinese"]
    assert "within" in found["Speech into Japanese"] and "paper reports +0.4" in found["Speech into Japanese"]
    assert "AI-STA is better" in found["Text into Chinese, never trained"]
    assert "3.8 times less" in found["How close they are"]
    nothing = {**invented.results(), "selected_layers": []}
    assert "none was aligned" in dict(findings(nothing, {}))["Where the two meet"]
    late = {**invented.results(), "selected_layers": [0, 1, 6]}
    assert "layers 0, 1 and 6. The paper chose early" in dict(findings(late, {}))["Where the two meet"]


def test_differences_are_marked():
    assert marked_difference("abX", "abc", False) == "ab<mark>X</mark>"
    assert marked_difference("ac", "abc", False) == 'a<mark class="gap" title="missing: b"></mark>c'
    assert marked_difference("the <cat>", "the dog", True) == "the <mark>&lt;cat&gt;</mark>"
    assert "no answer" in marked_difference("", "abc", False)
    assert marked_difference("same", "same", False) == "same"


def test_sound_survives_the_page():
    samples = invented.speech(0.5, 0)
    data = base64.b64decode(sound_uri(samples).split(",", 1)[1])
    back = load_audio(data)
    assert np.abs(back - np.clip(samples, -1, 1)).max() < 1e-4


def test_charts_draw_what_they_are_given():
    drawn = line_chart(
        [Series("a", [(0, 1.0), (1, float("nan")), (2, 3.0)], dots=True, marked=[2])],
        label="L", x_label="x", levels=[Level("chance", 0.5)],
    )  # fmt: skip
    assert drawn.count("<circle") == 2 and "chance 0.500" in drawn and drawn.startswith("<svg")
    assert "no data" in line_chart([Series("a", [])], label="L", x_label="x")
    assert "nan" not in line_chart([Series("a", [(1, 5.0)])], label="L", x_label="x", log=True)
    assert dumbbells([Pair("m", 40.0, 60.0, 2.0, 3.0)], label="L", names=("b", "s")).count("whisker") == 2
    heat = heat_map([[0.5, 0.0], [0.0, 0.5]], ["the", " <dog>"], label="L", samples=np.ones(100))
    assert heat.count('class="mass"') == 2 and "&lt;dog&gt;" in heat and "100 %" in heat
    assert waveform(np.zeros(10)).startswith("<svg")


def test_labels_at_the_right_end_never_cover_each_other():
    many = [Series(f"s{i}", [(0, 1.0), (1, 1.0 + i / 1000)]) for i in range(6)]
    heights = re.findall(r'<text class="name[^>]* y="([\d.]+)"', line_chart(many, label="L", x_label="x"))
    assert np.diff(sorted(map(float, heights))).min() > 13


def test_tables_and_signs():
    drawn = table(["", "a"], [Row(["group"]), Row(["x", "1.0"])])
    assert '<tr class="group"><th colspan="2">' in drawn and '<th scope="row">x</th><td>1.0</td>' in drawn
    assert [signed(v) for v in (1.25, -0.75, 0.04, -0.04)] == ["+1.2", "−0.8", "0.0", "0.0"]
