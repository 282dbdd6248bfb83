"""Numbers in tables are those of the run folders, and say what they rest on."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.evaluation.evaluate import compare
from aista.experiments.paper.plan import paper_plan
from aista.experiments.paper.systems import Run, with_best
from aista.experiments.paper.tables import all_tables, table1, table2, table3, table4, table5
from aista.experiments.results import Cell, Row, Table
from tests import tiny
from tests.experiments.paper.invented_runs import FALLING, SENTENCES, context, evaluate, plan, train


def row(table: Table, key: str, group: str = "qwen2") -> Row:
    return next(row for row in table.rows if (row.key, row.group) == (key, group))


@pytest.mark.slow
def test_mean_deviation_and_p_over_seeds(tmp_path: Path) -> None:
    made = plan(tmp_path, "table2", seeds=3)
    values = []
    for run in made.runs():
        train(run)
        wrong = 0 if run.system == "base" else run.seed
        scores = evaluate(run, wrong)
        if (run.backbone, run.system) == ("qwen2", "ai_sta"):
            values.append(scores["bleu_zh"])
    cell = row(table2(context(made)), "ai_sta").cells[0]
    assert cell.values == values and len(set(values)) == 3
    assert cell.value == pytest.approx(statistics.fmean(values))
    assert cell.deviation == pytest.approx(statistics.stdev(values))
    folders = [
        [Run("qwen2", system, seed, tmp_path).evaluation for system in ("base", "ai_sta")]
        for seed in (1, 2, 3)
    ]
    p_values = [compare(*pair)["bleu_zh"].p_value for pair in folders]
    assert cell.p_value == pytest.approx(statistics.median(p_values)) and cell.paper == 46.0
    base = row(table2(context(made)), "base").cells[0]
    assert base.p_value is None and base.deviation == 0 and base.best and not cell.best


def test_nothing_is_bold_on_one_seed(tmp_path: Path) -> None:
    made = plan(tmp_path, "table2")
    for run in made.runs():
        train(run)
        evaluate(run, 0 if run.system == "base" else 3)
    assert not any(cell.best for row in table2(context(made)).rows for cell in row.cells)


def test_tables_have_the_languages_of_the_tests(tmp_path: Path) -> None:
    """Base scale on English into German and French: no empty columns of Chinese and Japanese."""
    made = plan(tmp_path, "table2")
    for run in made.runs():
        train(run)
        evaluate(run, 0)
        path = run.evaluation / "results.json"
        path.write_text(path.read_text().replace("bleu_zh", "bleu_de").replace("bleu_ja", "bleu_fr"))
    there = context(made)
    table = table2(there)
    assert table.columns == ["En-De", "En-Fr"]
    assert all(cell.value is not None for cell in row(table, "base").cells)
    assert "salmonn" not in {line.key for line in table.rows}
    assert table5(there).columns == ["ST En-De", "MT En-De", "ST En-Fr", "MT En-Fr"]
    tiny.manifest(tmp_path / "test.jsonl", count=2)
    rows = [row.model_copy(update={"src_lang": "it"}) for row in Manifest(tmp_path / "test.jsonl")]
    write_manifest(tmp_path / "test.jsonl", rows)
    assert table2(replace(there, tests=[tmp_path / "test.jsonl"])).columns == ["It-De", "It-Fr"]
    assert table4(there).columns[:2] == ["En-De", "En-Fr"] and table3(there).columns[:2] == ["En-De", "En-Fr"]


def test_bold_needs_room_for_both_deviations() -> None:
    def cells(*pairs: tuple[float, float]) -> list[bool]:
        return [cell.best for cell in with_best([Cell(value=v, deviation=d) for v, d in pairs])]

    assert cells((46, 0.2), (45, 0.2)) == [True, False]
    assert cells((46, 0.6), (45, 0.5), (40, 0.1)) == [False, False, False]
    assert cells((46, 0.2)) == [False]


@pytest.mark.parametrize("sign", ["not finite", "rising"])
def test_a_failed_training_is_an_x(tmp_path: Path, sign: str) -> None:
    made = plan(tmp_path, "table3")
    for run in made.runs():
        broken = run.system == "layer_1"
        train(run, FALLING[::-1] if broken and sign == "rising" else FALLING)
        if broken and sign == "not finite":
            (run.model / "diverged.json").write_text(json.dumps({"reason": "The loss is not finite"}))
        else:
            evaluate(run)
    found = row(table3(context(made)), "layer_1")
    assert found.cells[0].text() == "X" == found.cells[0].paper_text()
    assert ("not finite" if sign == "not finite" else "cross-entropy 0.58") in found.cells[0].note
    assert row(table3(context(made)), "layer_0").cells[0].text() == "100.0"


def test_table_3_compares_the_same_seeds(tmp_path: Path) -> None:
    made = plan(tmp_path, "table2", "table3", seeds=2)
    for run in made.runs():
        train(run)
        evaluate(run, wrong=run.seed)
    table = table3(context(made))
    assert all(len(row.cells[0].values) == 1 for row in table.rows)
    assert "Seeds shown: 1." in table.notes
    assert len(row(table2(context(made)), "base").cells[0].values) == 2


def test_text_translation_stands_beside_speech(tmp_path: Path) -> None:
    made = plan(tmp_path, "table5")
    for run in made.runs():
        train(run)
        scores = evaluate(run, 2)
    found = row(table5(context(made)), "base", "llama")
    assert [cell.value for cell in found.cells] == [
        scores[name] for name in ("bleu_zh", "mt_bleu_zh", "bleu_ja", "mt_bleu_ja")
    ]
    assert [cell.paper for cell in found.cells] == [36.5, 34.0, None, None]
    assert any("tok:ja-mecab" in line for line in table5(context(made)).signatures)
    taught = table5(replace(context(made), training={"MT": tmp_path}))  # unlike the paper's
    assert [cell.paper for cell in row(taught, "base", "llama").cells] == [36.5, None, None, None]
    assert "zero-shot" in table5(context(made)).title and "zero-shot" not in taught.title
    assert not any("was not trained" in note for note in taught.notes)


def test_directions_trained_apart_are_one_row(tmp_path: Path) -> None:
    made = plan(tmp_path, "table2", directions=("en-zh", "en-ja"))
    for run in made.runs():
        if run.system == "base":
            evaluate(run)
            results = json.loads((run.evaluation / "results.json").read_text())
            code = run.direction[-2:]
            results["scores"] = {f"bleu_{code}": {"zh": 1.0, "ja": 2.0}[code]}
            (run.evaluation / "results.json").write_text(json.dumps(results))
    assert [cell.value for cell in row(table2(context(made)), "base").cells] == [1.0, 2.0]


def test_a_measured_baseline_stands_beside_the_reported(tmp_path: Path) -> None:
    place = tmp_path / "baselines" / "cascade" / "results.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"scores": {"bleu_zh": 80.0, "bleu_ja": 81.0}}))
    table = table2(context(plan(tmp_path, "table2")))
    assert [cell.value for cell in row(table, "cascade", "").cells] == [80.0, 81.0]
    assert [cell.paper for cell in row(table, "qwen2_audio", "").cells] == [45.2, 28.6]


def test_what_was_trained_on_is_counted(tmp_path: Path) -> None:
    tiny.manifest(tmp_path / "covost2.jsonl", count=4)
    rows = [json.loads(line) for line in (tmp_path / "covost2.jsonl").read_text().strip().split("\n")]
    for row in rows:
        row["duration"] = 1800.0
    (tmp_path / "covost2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    there = context(plan(tmp_path, "table1"))
    at_paper_scale = replace(there, training={"covost2-en-zh": tmp_path / "covost2.jsonl"})
    cells = next(row for row in table1(at_paper_scale).rows if row.label == "CoVoST2 En2Zh").cells
    assert [cell.value for cell in cells] == [2.0, 4] and [cell.paper for cell in cells] == [364, 289_000]
    small = table1(replace(there, training={"ST": tmp_path / "covost2.jsonl"}))
    found = {row.label: [cell.value for cell in row.cells] for row in small.rows}
    assert found["stand-in: spoken sentences En-Zh"] == [2.0, 4]
    assert found["stand-in: spoken sentences"][1] == 9000  # the shipped stage-1 model's card
    own = {task: tmp_path / "covost2.jsonl" for task in ("ASR", "ST")}  # nothing of the shipped one's
    found = {
        row.label: [cell.value for cell in row.cells] for row in table1(replace(there, training=own)).rows
    }
    assert found["here: spoken sentences"] == [2.0, 4] and "stand-in" not in " ".join(found)
    assert "here: sounds" not in found


def test_tables_of_nothing_say_so(tmp_path: Path) -> None:
    tables = all_tables(context(plan(tmp_path)))
    assert [table.name for table in tables] == ["table1", "table2", "table3", "table4", "table5"]
    assert all("Not finished yet" in "".join(table.notes) for table in tables[1:])


def test_means_of_fewer_seeds_than_others_say_so(tmp_path: Path) -> None:
    made = plan(tmp_path, "table2", seeds=3)
    for run in made.runs():
        if run != Run("qwen2", "ai_sta", 3, tmp_path):
            train(run, FALLING[::-1] if run == Run("llama", "base", 2, tmp_path) else FALLING)
            evaluate(run)
    for make in (table2, table5):
        told = make(context(made)).notes
        assert "Not finished yet: qwen2/ai_sta (seed 3)." in told
        assert "Diverged, and in no mean: llama/base (seed 2)." in told


def test_scores_are_sacrebleus_own_command_line_digit_for_digit(tmp_path: Path) -> None:
    made = plan(tmp_path, "table2")
    run = made.runs()[0]
    scores = evaluate(run, 2)
    path = run.evaluation / "test.speech.jsonl"
    lines = [json.loads(line) for line in path.read_text().strip().split("\n")]
    for code, tokenizer in (("zh", "zh"), ("ja", "ja-mecab")):
        rows = [line for line in lines if line["language"] == code]
        assert len(rows) == len(SENTENCES[code])
        for name in ("hypothesis", "reference"):
            (tmp_path / name).write_text("".join(line[name] + "\n" for line in rows), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "sacrebleu",
            str(tmp_path / "reference"),
            "-i",
            str(tmp_path / "hypothesis"),
        ]
        printed = subprocess.run(
            [*command, "-m", "bleu", "-tok", tokenizer, "-w", "12", "-b"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert printed.stdout.strip() == f"{scores[f'bleu_{code}']:.12f}"


def test_of_two_directions_apart_most_tables_show_the_papers(tmp_path: Path) -> None:
    made = paper_plan("paper", tmp_path, ["table2", "table3", "table4"], data=tmp_path / "data")
    for way in made.directions:
        rows = [Utterance(id="a", audio="a.wav", text="A bell.", task="st", tgt_lang=way[-2:])]
        path = tmp_path / "data" / f"covost2-{way}" / "test.jsonl"
        path.parent.mkdir(parents=True)
        write_manifest(path, rows)
    for run in made.scope.runs():
        train(run)
        evaluate(run, 2 if run.direction == "en-ja" else 0)
        results = run.results
        other = {"en-zh": "ja", "en-ja": "zh"}[run.direction]
        for scores in (results["scores"], results["by_set"]["test"]["scores"], results["signatures"]):
            for name in [name for name in scores if name.endswith(other)]:
                del scores[name]
        (run.evaluation / "results.json").write_text(json.dumps(results))
    first = made.context(made.directions[:1])
    assert [path.parent.name for path in first.tests] == ["covost2-en-zh"]
    two, three, four = all_tables(made.context(), first)
    assert two.columns == ["En-Zh", "En-Ja"]
    assert three.columns == ["En-Zh", "final CE"] and four.columns == ["En-Zh", "log W", "token accuracy"]
    for key in ("base", "ctc"):
        cells = next(row for row in four.rows if row.key == key).cells
        assert [cell.value for cell in cells[1:]] == [6.0, 90.0]  # of Chinese alone: Japanese has 8 and 88
    for shown in (two, three, four):
        assert not [note for note in shown.notes if "Not finished" in note or "directions" in note]
        assert "on test, all sentences" in shown.caption
    own = next(row for row in two.rows if row.key == "blsp_kd").cells
    assert own[0].value is not None and own[1].value is None
