"""The page holds everything and needs nothing; its words follow from its numbers."""

from __future__ import annotations

import base64
import copy
import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from aista.audio.files import load_audio
from aista.experiments.demo_page import ReportData, render, title_of
from aista.experiments.page import PAPER_URL, chance_text, marked_difference, seconds_text, sound_uri
from tests.experiments import invented_demo as invented

VOID = {"meta", "link", "br"}


class Checker(HTMLParser):
    """Collects ids and addresses, and demands that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.headings: list[int] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.ids += [values["id"]] if "id" in values else []
        self.addresses += [values[key] for key in ("src", "href") if key in values]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(page: str) -> Checker:
    """Check that tags are closed, ids unique, and that nothing is fetched but what a reader clicks."""
    checker = Checker()
    checker.feed(page)
    assert checker.open == [] and len(set(checker.ids)) == len(checker.ids)
    outside = [a for a in checker.addresses if not a.startswith(("data:", "#"))]
    assert set(outside) <= {PAPER_URL, "../README.md"} and PAPER_URL in outside
    bare = re.sub(r"base64,[^\"]*", "", page).replace(PAPER_URL, "")
    assert "http" not in bare and "@import" not in bare and "url(" not in re.sub(r"url\(#", "", bare)
    assert all(address[1:] in checker.ids for address in checker.addresses if address.startswith("#"))
    assert not re.search(r"\{\{|\{%|None|nan\b", re.sub(r"<script>.*?</script>", "", bare, flags=re.S))
    # No level is left out on the way down.
    assert all(after <= before + 1 for before, after in pairwise(checker.headings))
    assert checker.headings[0] == 1 and "<th></th>" not in page
    return checker


def found(data: ReportData) -> dict[str, str]:
    """What came out: subject -> sentences, and under ``headline`` the heading of the page."""
    page = re.sub(r"\s+", " ", render(data))
    rows = re.findall(r"<dt>([^<]*)</dt> ?<dd>([^<]*)</dd>", page)
    heading = re.search("<h1>(.*?)</h1>", page)
    assert heading
    return {html.unescape(k): html.unescape(v) for k, v in rows} | {"headline": heading[1]}


@pytest.fixture(scope="module")
def page() -> str:
    return render(replace(invented.data(), readme="../README.md"))


@pytest.mark.slow
def test_the_page_is_whole_and_reaches_for_nothing_outside(page):
    assert len(checked(page).ids) >= 7 and "../README.md" in page
    # One engine: each drawing that has a phone's version is there twice, the waves and plans once.
    assert page.count('class="for-wide"') == page.count('class="for-narrow"') == 5


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


def test_a_page_of_bare_results():
    data = invented.data()
    bare = render(replace(data, comparisons={}, clips=(), histories={}, configs={}, notice=""))
    assert 'id="heard"' not in bare and 'id="plans"' not in bare and 'id="learnt"' not in bare
    assert 'class="banner"' not in bare and "was not tested" in bare
    checked(bare)


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
    comparisons = {name: {"p_value": p} for name in ("bleu_zh", "bleu_ja")}
    assert words in found(ReportData(results, comparisons))["headline"]


@pytest.mark.slow
def test_what_was_never_taught_leads():
    systems = {"base": {"bleu_zh": 30.0, "wer_en": 9.0}, "ai_sta": {"bleu_zh": 41.5, "wer_en": 12.0}}
    results = {
        **invented.results(),
        "untaught": {
            "systems": systems,
            "significance": {"bleu_zh": {"p_value": 0.001}},
            "align_steps": 150,
            "steps": {"base": 250, "ai_sta": 100},
        },
    }
    rows = found(ReportData(results, invented.comparisons()))
    assert (
        "Base 30.0, AI-STA 41.5 BLEU (+11.5). AI-STA is better" in rows["Speech into Chinese, never taught"]
    )
    assert "AI-STA is worse" in rows["Speech into Chinese, taught"]
    assert "never taught; what was taught, it did not make better" in rows["headline"]
    whole = render(ReportData(results, invented.comparisons()))
    assert 'id="never"' in whole and "word error rate" in whole
    assert "first spends 150 steps" in whole and "for 100 steps; base has 250" in whole
    checked(whole)
    systems["ai_sta"]["bleu_zh"] = 18.5  # and where it harms, the page does not lead with it
    assert "never taught" not in found(ReportData(results, invented.comparisons()))["headline"]


def test_findings_name_losses_as_losses_and_luck_as_luck():
    rows = found(ReportData(invented.results(), invented.comparisons()))
    assert "AI-STA is worse" in rows["Speech into Chinese"] and "−6.6" in rows["Speech into Chinese"]
    assert "within" in rows["Speech into Japanese"] and "paper reports +0.4" in rows["Speech into Japanese"]
    assert "AI-STA is better" in rows["Text into Chinese, never trained"]
    assert "3.8 times less" in rows["How close they are"]
    nothing = {**invented.results(), "selected_layers": []}
    assert "none was aligned" in found(ReportData(nothing))["Where the two meet"]
    late = {**invented.results(), "selected_layers": [0, 1, 6]}
    assert "layers 0, 1 and 6. The paper chose early" in found(ReportData(late))["Where the two meet"]


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


def test_names_and_numbers_in_words():
    assert [title_of(name) for name in ("mt_bleu_zh", "wer_en", "chrf_captions")] == [
        "text → Chinese, BLEU", "English, word error rate, % ↓", "captions, chrF2",
    ]  # fmt: skip
    assert [chance_text(p) for p in (0.004, 0.2)] == ["p < 0.01", "p = 0.20"]
    assert [seconds_text(s) for s in (5, 150, 9000)] == ["5 s", "2.5 min", "2.5 h"]
