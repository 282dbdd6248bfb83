"""The page holds everything and needs nothing; its verdicts follow from its numbers."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from aista.errors import ConfigError
from aista.experiments.page import shared_notes
from aista.experiments.paper.page import EXPECTED, Verdict, claims, compared, gaps_of, render, write_report
from aista.experiments.results import Cell, Figure, Row, Table, draw_again, load_all, save
from tests.experiments.paper import invented, invented_tables
from tests.experiments.test_demo_page import checked


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    invented.write(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_is_whole_and_reaches_for_nothing_outside(page):
    assert {*EXPECTED[:-1], "agreement", "made"} <= set(checked(page).ids)


def test_what_the_issue_asks_for_stands_on_the_page(page):
    bare = re.sub(r"<script>.*?</script>|base64,[^\"]*", "", page, flags=re.S)
    for words in (
        invented.NOTICE,
        "46.0",  # the paper's value
        "±",
        "p &lt; 0.01",
        "tok:zh",
        "Pearson’s r",
        "nobody picked",
        "aista reproduce all --scale small --seeds 3",
        "A processor",
        "torch 2.13.0",
        "0" * 64,
    ):
        assert words in bare
    assert bare.count("<audio controls") == 8  # six cases and two plans
    assert bare.count('class="for-wide"') == bare.count('class="for-narrow"') == 5
    assert bare.count("download=") == 5 * 2 + 5


def test_a_part_of_the_exhibits_gives_a_part_of_the_page(folder):
    some = {name: result for name, result in load_all(folder).items() if name in ("table2", "figure5")}
    page = render(some, {}, folder)
    assert "Not made yet" in page and "Table 3" in page and "Figure 7" in page
    assert 'id="cases"' not in page and 'id="made"' not in page and 'id="table2"' in page


def test_a_sound_that_is_gone_costs_the_player_alone(folder, tmp_path):
    cases = {"figure7": load_all(folder)["figure7"]}
    assert "<audio" not in render(cases, {}, tmp_path) and "医生昨天" in render(cases, {}, tmp_path)


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="nothing to report"):
        write_report(tmp_path)


def test_a_strangers_figure_is_shown_as_the_picture_it_has(tmp_path):
    svg = '<svg xmlns="http://www.w3.org/2000/svg"/>'
    save(Figure(name="mine", title="Mine <b>", data={"a": 1}, svg=svg), tmp_path)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "data:image/svg+xml;base64" in page and "Mine &lt;b&gt;" in page


def headline(results) -> str:
    return re.search("<h1>(.*?)</h1>", render(results, {}, Path("nowhere")), re.S)[1]


def table(first: list[float], second: list[float], p: float | None = None, paper=(45.3, 46.0)) -> Table:
    def row(key: str, values: list[float], reported: float, p_value: float | None = None) -> Row:
        mean = sum(values) / len(values) if values else None
        cell = Cell(value=mean, values=values, paper=reported, p_value=p_value)
        return Row(label=key, key=key, group="qwen2", cells=[cell])

    rows = [row("base", first, paper[0]), row("ai_sta", second, paper[1], p)]
    return Table(name="table2", title="T", columns=["En-Zh"], rows=rows)


@pytest.mark.parametrize(
    ("first", "second", "p", "verdict", "words"),
    [
        ([1.0], [2.0], 0.01, Verdict.AGREES, "Here too"),
        ([2.0], [1.0], 0.01, Verdict.DIFFERS, "worse"),
        ([2.0], [1.0], 0.06, Verdict.OPEN, "neither helps nor harms"),
        ([2.0], [1.0], None, Verdict.OPEN, "neither"),
        ([1.0, 2.0, 3.0], [2.0, 3.1, 3.9], 0.9, Verdict.AGREES, "Here too"),  # seeds outweigh sentences
        ([1.0, 2.0, 3.0], [2.0, 1.9, 3.1], 0.001, Verdict.OPEN, "neither"),
    ],
)
def test_verdicts_follow_from_the_numbers(first, second, p, verdict, words):
    results = {"table2": table(first, second, p)}
    (claim,) = claims(results)
    assert claim.verdict is verdict and words in headline(results)
    assert "45.3 to 46.0, +0.7" in claim.paper


@pytest.mark.parametrize(
    ("pearson", "spearman", "verdict"),
    [
        ((-0.9, -0.2), (-0.8, -0.1), Verdict.AGREES),
        ((0.2, 0.9), (0.1, 0.8), Verdict.DIFFERS),
        ((0.7, 0.9), (-0.2, 0.8), Verdict.OPEN),  # a few runs far off make r
        ((-0.9, -0.7), (-0.8, 0.2), Verdict.OPEN),
        ((-0.9, 0.2), (-0.8, 0.1), Verdict.OPEN),
    ],
)
def test_closeness_goes_with_translation_where_both_coefficients_say_so(pearson, spearman, verdict):
    rows = [
        {"over": "Chinese", "coefficient": kind, "value": sum(ends) / 2, "low": ends[0], "high": ends[1]}
        for kind, ends in (("Pearson", pearson), ("Spearman", spearman))
    ]
    data = {"correlations": [*rows, rows[0] | {"over": "all panels"}, rows[0] | {"over": "few", "low": None}]}
    (claim,) = claims({"figure6": Figure(name="figure6", title="T", data=data, svg="")})
    assert claim.verdict is verdict and "Spearman’s ρ" in claim.here
    apart = (pearson[0] > 0) - (pearson[1] < 0) != (spearman[0] > 0) - (spearman[1] < 0)
    assert ("do not agree on Chinese" in claim.here) is apart


def test_what_was_not_measured_has_no_verdict():
    assert claims({"table2": table([], [])}) == [] and claims({}) == []
    assert "as far as they have been made" in headline({})
    assert compared(table([1.0, 2.0], [1.0]), [0]) == []  # a sweep that is half done


def test_other_languages_than_english_are_compared_too(folder):
    results = load_all(folder)
    before = claims(results), gaps_of(results)
    for name in ("table2", "table5"):
        titles = [title.replace("En-", "It-") for title in results[name].columns]
        results[name] = results[name].model_copy(update={"columns": titles})
    now = claims(results), gaps_of(results)
    assert [len(found) for found in now] == [len(found) for found in before]
    assert [gap["name"].replace("It-", "En-") for gap in now[1]] == [gap["name"] for gap in before[1]]


def test_seeds_are_paired_by_their_numbers():
    """Seed 1 of CTC diverged: its seeds 2 and 3 are compared with the same two of AI-STA."""

    def row(key: str, seeds: list[int], values: list[float]) -> Row:
        return Row(label=key, key=key, group="qwen2", cells=[Cell.over(values, seeds=seeds)])

    rows = [row("ctc", [2, 3], [20.0, 30.0]), row("ai_sta", [1, 2, 3], [50.0, 21.0, 31.0])]
    (claim,) = claims({"table4": Table(name="table4", title="T", columns=["En-Zh"], rows=rows)})
    assert "+1.0 (2 seeds, 95 % interval +1.0 to +1.0)" in claim.here
    rows = [row("base", [2, 3], [20.0, 30.0]), row("ai_sta", [1, 2], [50.0, 21.0])]
    assert compared(Table(name="table2", title="T", columns=["En-Zh"], rows=rows), [0]) == []


@pytest.mark.parametrize("place", ["small/exhibits", "base/whole"])
def test_what_hearing_costs_is_told_at_every_scale(place):
    path = Path(__file__).parents[3] / "docs" / "results" / place / "table5.json"
    found = gaps_of({"table5": Table.of(json.loads(path.read_text()), source=str(path))})
    assert found and not any(kind in row["name"] for row in found for kind in ("ST ", "MT ", "Trained"))
    assert all(row["base"] > 0 and row["system"] > 0 for row in found)


def test_layer_1_alone_diverges_or_does_not(folder):
    results = load_all(folder)
    found = {claim.subject: claim for claim in claims(results)}
    assert found["Without layer 0"].verdict is Verdict.AGREES
    rows = [
        row.model_copy(update={"cells": [Cell(value=70.0, values=[70.0])]}) if row.key == "layer_1" else row
        for row in results["table3"].rows
    ]
    trained = results["table3"].model_copy(update={"rows": rows})
    (claim, *_) = claims({"table3": trained})
    assert claim.verdict is Verdict.DIFFERS and "70.0" in claim.here


def test_claims_on_figures(folder):
    found = {claim.subject: claim for claim in claims(load_all(folder))}
    assert found["Retrieval by layer, Qwen2 stand-in"].verdict is Verdict.AGREES
    assert found["Retrieval by layer, Llama stand-in"].verdict is Verdict.DIFFERS
    assert found["The gap between speech and text"].verdict is Verdict.AGREES
    assert "100 % right" in found["The gap between speech and text"].here


def test_notes_of_several_tables_stand_once(page):
    assert page.count(invented_tables.SHARED) == 1
    assert shared_notes(invented_tables.tables()[:2]) == []


def test_texts_cannot_break_a_table(tmp_path):
    evil = Table(name="t", title="<i>", columns=['"><u>'], notes=["<script>"], signatures=["<s>"],
                 rows=[Row(label="<b>", cells=[Cell(value=1.0, note='" onclick="')])])  # fmt: skip
    drawn = re.sub(r"base64,[^\"]*", "", render({"t": evil}, {}, tmp_path))
    assert "&lt;script&gt;" in drawn and "<u>" not in drawn and ' onclick="' not in drawn


def test_every_seed_stands_under_its_own_column(tmp_path):
    equal = [Cell(value=1.0, values=[1.0, 1.0]) for _ in range(2)]
    same = Table(name="t", title="t", columns=["En-Zh", "En-Ja"], rows=[Row(label="base", cells=equal)])
    drawn = render({"t": same}, {}, tmp_path)
    assert 'row">base En-Zh</th>' in drawn and 'row">base En-Ja</th>' in drawn


def test_figures_are_on_narrow_paper_too(page):
    *_, style = page.partition("</style>")[0].split("@media print")
    assert style.startswith(" { .for-wide { display: block; } .for-narrow { display: none; }")


@pytest.mark.slow
def test_figures_and_page_are_drawn_again_from_their_numbers(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    kept = load_all(folder)
    for path in (tmp_path / "copy/exhibits").glob("*.svg"):
        path.write_text("gone")
    (tmp_path / "copy/report.html").unlink()
    draw_again(tmp_path / "copy")
    assert write_report(tmp_path / "copy").exists()
    assert load_all(tmp_path / "copy") == kept
    assert "gone" not in (tmp_path / "copy/exhibits/figure4.svg").read_text()


def test_verdict_of_one_seed_without_bootstrap_stays_open():
    (row,) = compared(table([1.0], [9.0]), [0])
    assert row.sign == 0 and replace(row, p_value=0.01).sign == 1
