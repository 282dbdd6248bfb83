"""Figures from run folders: the numbers are those of the folders, and pictures are drawn from the numbers."""

from __future__ import annotations

import base64
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aista.audio.files import load_audio, write_audio
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.evaluation.metrics import chrf
from aista.experiments.page import drawn_plan
from aista.experiments.paper.figures import all_figures, figure4, figure5, figure6
from aista.experiments.paper.page import _clip, write_report
from aista.experiments.paper.sentences import (
    LONGEST_SECONDS,
    chosen_sentences,
    figure7,
    pairs_of_runs,
    saved_clip,
)
from aista.experiments.paper.systems import Context, Run
from aista.experiments.results import Figure, load_all, save
from aista.model import AistaForConditionalGeneration, AistaProcessor
from aista.selection.select import LayerReport, LayerRow
from tests import tiny
from tests.experiments.paper import invented_runs
from tests.experiments.paper.invented_runs import SENTENCES, context, evaluate, plan, train

ABOUT = (
    "depth", "length_only", "norm_speech", "norm_text", "massive_speech", "massive_text", "cosine_of_means",
    "energy_top_dims_speech", "energy_top_dims_text",
)  # fmt: skip
QFORMER = {
    "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "frames_per_window": 8,
}  # fmt: skip


def layers(path: Path, mrr: list[float], threshold: float) -> Path:
    """A layer report."""
    rows = [
        LayerRow(
            **dict.fromkeys(ABOUT, 0.0),
            cost="squared_euclidean",
            cloud="span",
            prompt="own",
            layer=i,
            mrr=value,
            low=value,
            high=value,
            selected=value > threshold,
            mean_distance=1.0,
            shuffled=0.02,
            chance=0.0519,
            num_pairs=100,
            num_ties=0,
            pairs_touched=0,
            seconds=0.0,
        )
        for i, value in enumerate(mrr)
    ]
    report = LayerReport(model="m", num_pairs=100, threshold=threshold, chance_mrr=0.0519, rows=rows)
    report.save(path)
    return path


def with_tests(found: Context) -> Context:
    """Add a test set of noise whose rows the invented hypotheses answer, and layer reports."""
    folder = found.folder
    tiny.manifest(folder / "clips.jsonl", count=4, task="asr")
    rows = [
        Utterance(id=f"{i}-{code}", audio=clip.audio, text=clip.text, task="st", tgt_lang=code,
                  translation=SENTENCES[code][i])
        for i, clip in enumerate(Manifest(folder / "clips.jsonl"))
        for code in SENTENCES
    ]  # fmt: skip
    write_manifest(folder / "test.jsonl", rows)
    reports = {
        "qwen2": layers(folder / "qwen2.json", [0.9, 0.4, 0.1, 0.06], 0.35),
        "llama": layers(folder / "llama.json", [0.5, 0.5, 0.4, 0.06], 0.35),
    }
    return replace(found, tests=[folder / "test.jsonl"], layers=reports, titles={"ai_sta": "AI-STA"})


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Context:
    """Three seeds of base and AI-STA on two backbones."""
    made = plan(tmp_path_factory.mktemp("sweep"), "figure4", "figure6", "figure7", seeds=3)
    for run in made.runs():
        if run.system == "layer_1":
            train(run, [1.0 + i / 10 for i in range(20)])
            continue
        train(run)
        evaluate(
            run, {"base": 1, "ai_sta": 0}.get(run.system, 2) + (run.seed == 3 and run.system == "ai_sta") * 2
        )
    return with_tests(context(made))


def test_figure_4_shows_the_reports(sweep):
    found = figure4(sweep)
    first, second = found["data"]["lines"]
    assert first["mrr"] == [0.9, 0.4, 0.1, 0.06] and first["selected"] == [0, 1]
    assert first["title"] == "Qwen2 stand-in"
    assert second["selected"] == [0, 1, 2] and len(found["data"]["rows"]) == 8
    assert any("6.7 times chance" in note for note in found["notes"])
    assert figure4(replace(sweep, layers={})) is None


def test_figure_6_has_a_point_per_run_and_language(sweep):
    found = figure6(sweep)
    rows = found["data"]["rows"]
    assert len(rows) == 2 * len(sweep.runs) and {row["panel"] for row in rows} == {
        "Qwen2 stand-in, Chinese",
        "Qwen2 stand-in, Japanese",
    }
    one = next(run for run in sweep.runs if run.system == "ctc" and run.seed == 2)
    scores = json.loads((one.evaluation / "results.json").read_text())["scores"]
    (row,) = [r for r in rows if (r["system"], r["seed"], r["language"]) == ("ctc", 2, "ja")]
    assert (row["bleu"], row["log_wasserstein"]) == (scores["bleu_ja"], scores["log_wasserstein"])
    assert {row["over"] for row in found["data"]["correlations"]} == {
        "Qwen2 stand-in, Chinese",
        "Qwen2 stand-in, Japanese",
        "all panels",
    }
    # In these runs every lost head costs BLEU and adds to log W.
    pearson = [r for r in found["data"]["correlations"] if r["coefficient"] == "Pearson"]
    assert all(row["value"] < -0.9 and row["high"] < 0 for row in pearson)
    assert any("Diverged and left out: layer_1" in note for note in found["notes"])
    assert figure6(replace(sweep, runs=[])) is None


def test_figure_7_finds_what_differs_and_keeps_the_sound(sweep):
    only = [run for run in sweep.runs if run.seed != 1 or run.system != "ctc"]
    found = figure7(replace(sweep, runs=only))
    counts = found["data"]["counts"]
    assert [row["language"] for row in counts] == ["zh", "ja"]
    # Seed 1: base lost the head of one sentence, AI-STA of none. Without a loss no gain is shown.
    assert all((row["num_better"], row["num_worse"], row["num_equal"]) == (1, 0, 3) for row in counts)
    assert found["data"]["cases"] == [] and sum(counts[0]["histogram"]) == 1


def test_cases_are_balanced_and_say_what_other_seeds_do(sweep):
    later = [run for run in sweep.runs if run.seed != 1]
    first = Run("qwen2", "ai_sta", 2, sweep.folder)
    path = first.evaluation / "test.speech.jsonl"
    kept = path.read_text()
    rows = [json.loads(line) for line in kept.strip().split("\n")]
    rows[3]["hypothesis"] = ""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        better, worse = figure7(replace(sweep, runs=later))["data"]["cases"]
    finally:
        path.write_text(kept)
    assert (better["row"], better["way"], worse["row"], worse["way"]) == ("0-zh", "better", "3-zh", "worse")
    assert worse["difference"] == pytest.approx(-100, abs=0.1)
    expected = 100 - chrf([SENTENCES["zh"][0][3:]], [SENTENCES["zh"][0]]).value
    assert better["difference"] == pytest.approx(expected, abs=0.01)
    assert better["other_seeds"] == [0.0] and len(worse["other_seeds"]) == 1  # seed 3: both lost one head
    assert set(better["texts"]) >= {"base", "ai_sta", "ctc"} and better["source"] == tiny.TEXTS[0]
    original = load_audio(sweep.folder / better["audio"])
    assert np.abs(load_audio(sweep.folder / better["clip"]) - original).max() < 1e-3
    assert [Path(case["clip"]).name for case in (better, worse)] == ["case-0.flac", "case-1.flac"]  # not ids


def test_a_case_is_cut_but_a_plan_has_its_whole_sound(tmp_path):
    write_audio(tmp_path / "long.wav", np.zeros(13 * 16_000, np.float32))
    write_manifest(tmp_path / "test.jsonl", [Utterance(id="../../out", audio="long.wav", text="a")])
    there = replace(context(plan(tmp_path)), folder=tmp_path)
    for most, seconds in ((LONGEST_SECONDS, 12), (None, 13)):
        found = saved_clip(there, tmp_path / "test.jsonl", 0, "a", most)
        assert len(load_audio(tmp_path / found["clip"])) == seconds * 16_000


def test_pairs_need_both_systems(sweep):
    assert [(a.seed, b.seed) for a, b in pairs_of_runs(sweep)["qwen2"]] == [(1, 1), (2, 2), (3, 3)]
    assert pairs_of_runs(replace(sweep, runs=[run for run in sweep.runs if run.system == "base"])) == {}
    assert chosen_sentences(replace(sweep, runs=[])) == [] and figure7(replace(sweep, runs=[])) is None


@pytest.fixture(scope="module")
def inside(tmp_path_factory) -> Context:
    """Base and AI-STA as real, tiny models that differ in their Q-Former."""
    made = plan(
        tmp_path_factory.mktemp("inside"), "figure5", "figure7", backbones=invented_runs.BACKBONES[:1]
    )
    bases = tiny.whisper(made.root / "whisper"), tiny.language_model(made.root / "lm")
    for number, run in enumerate(made.runs()):
        model = AistaForConditionalGeneration.from_bases(*bases, None, qformer=QFORMER, dtype="float32")
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * number
        model.save_pretrained(run.model)
        AistaProcessor.from_config(model.config).save_pretrained(run.model)
        train(run)
        evaluate(run, 1 - number)
    return with_tests(context(made))


@pytest.fixture(scope="module")
def drawn(inside) -> list[Figure]:
    return all_figures(inside)


@pytest.mark.slow
def test_figures_from_inside_the_models(inside, drawn):
    found = {figure.name: figure for figure in drawn}
    assert set(found) == {"figure5", "figure7", "transport"}
    panels = found["figure5"].data["panels"]
    assert [panel["system"] for panel in panels] == ["base", "ai_sta"]
    assert panels[0]["text"] == panels[1]["text"]  # one frozen embedding
    assert panels[0]["speech"] != panels[1]["speech"]
    assert all(len(panel["speech"]) == 4 for panel in panels)
    assert [row["num_pairs"] for row in found["figure5"].data["rows"]] == [4, 4]
    kept = np.load(inside.folder / "exhibits/files/figure5.npz")
    assert kept["qwen2/base/speech_density"].shape == (64, 64)
    clips = found["transport"].data["clips"]
    assert clips[0]["why"] == "first of test" and set(clips[0]["maps"]) == {"base", "ai_sta"}
    for plan_of in clips[0]["maps"].values():
        assert np.sum(plan_of["plan"]) == pytest.approx(1, abs=1e-3) and plan_of["value"] > 0
        assert plan_of["token_seconds"] == 8 * 0.02  # base scale's windows, not the paper's
    assert "each column is 0.16 s" in found["transport"].caption
    clip = _clip(clips[0], inside.folder)
    assert drawn_plan(clip, "base")["seconds"] == pytest.approx(0.16 * len(plan_of["plan"]))


def test_states_are_computed_once(inside, monkeypatch):
    first = figure5(inside)
    monkeypatch.setattr("aista.experiments.paper.figures._computed", None)
    assert figure5(inside) == first


@pytest.mark.slow
def test_what_cannot_be_made_costs_itself_alone(sweep, inside, drawn, caplog):
    outside = all_figures(sweep)
    assert [figure.name for figure in outside] == ["figure4", "figure6", "figure7"]
    assert "transport could not be made" in caplog.text  # there is no model in these folders
    for figure in [*outside, *drawn]:
        save(figure, inside.folder)
        assert Figure.of(json.loads(figure.to_json())) == figure
        assert ElementTree.fromstring(figure.svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert base64.b64decode(figure.png).startswith(b"\x89PNG")
    assert set(load_all(inside.folder)) == {"figure4", "figure5", "figure6", "figure7", "transport"}
    assert "Not made yet" in write_report(inside.folder).read_text(encoding="utf-8")
