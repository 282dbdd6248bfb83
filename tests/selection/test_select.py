"""Layer selection: known rankings, exact bookkeeping, resumption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from aista.cli import stages
from aista.config import SelectSettings
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.errors import ConfigError, ManifestError
from aista.retrieval import chance_mrr
from aista.selection import select as select_module
from aista.selection.hidden_states import LayerStates
from aista.selection.select import LayerReport, clips_with_text, draw_pairs, rank_layers, retrieved, select
from aista.training.stages import pretrain
from tests import tiny

QUERIES = 12


def settings(**changes: object) -> SelectSettings:
    return SelectSettings.of({"output": "o", "model": "m", "data": ["d"], "num_pairs": QUERIES, **changes})


def layers() -> Iterator[LayerStates]:
    """Layer 0: speech equals its text. Layer 1: speech equals the next item's text. Layer 2: noise."""
    rng = np.random.default_rng(0)
    text = [rng.standard_normal((3 + i % 4, 8)).astype(np.float32) for i in range(QUERIES)]
    noise = [rng.standard_normal((5, 8)).astype(np.float32) for _ in range(QUERIES)]
    yield LayerStates(0, text, text)
    yield LayerStates(1, text[1:] + text[:1], text)
    yield LayerStates(2, noise, text)


TEXTS = [f"sentence {i}" for i in range(QUERIES)]


def test_an_aligned_layer_is_chosen_and_a_shifted_one_is_not() -> None:
    report = rank_layers(layers(), TEXTS, settings(threshold=0.6), name="m")
    assert report.mrr_by_layer[0] == 1.0 and report.mrr_by_layer[1] <= 0.5
    assert report.selected == [0]
    assert report.rows[0].mean_distance == pytest.approx(0, abs=1e-6)
    assert report.chance_mrr == pytest.approx(sum(1 / r for r in range(1, QUERIES + 1)) / QUERIES)


def test_threshold_as_a_multiple_of_chance() -> None:
    report = rank_layers(layers(), TEXTS, settings(threshold_times_chance=2.5), name="m")
    assert report.threshold == pytest.approx(2.5 * chance_mrr(QUERIES))


def test_decide_mode_agrees_with_exact_mode() -> None:
    exact = rank_layers(layers(), TEXTS, settings(threshold=0.6), name="m")
    decided = rank_layers(layers(), TEXTS, settings(threshold=0.6, mode="decide"), name="m")
    assert decided.selected == exact.selected
    for sure, bounds in zip(exact.rows, decided.rows, strict=True):
        assert bounds.low - 1e-9 <= sure.mrr <= bounds.high + 1e-9
        assert bounds.mean_distance == pytest.approx(sure.mean_distance, rel=1e-9)


def test_a_sentence_is_no_rival_of_itself_in_another_voice() -> None:
    """Two sentences, each spoken six times. Given the wrong one, six clips' right one is nearer: rank 7."""
    rng = np.random.default_rng(1)
    sentences = [rng.standard_normal((4, 8)) for _ in range(2)]
    spoken, written = (  # never quite the same: a rival of its own would be nearer by chance
        [(sentences[i // 6] + 1e-3 * rng.standard_normal((4, 8))).astype(np.float32) for i in range(QUERIES)]
        for _ in range(2)
    )
    states = LayerStates(0, spoken, written)
    texts = [f"sentence {i // 6}" for i in range(QUERIES)]
    (row,) = rank_layers([states], texts, settings(threshold=0.5), name="m").rows
    assert (row.mrr, row.num_ties, row.shuffled) == (1.0, 0, pytest.approx(1 / 7))
    assert len(row.mrr_by_cost) == 3 and set(row.mrr_by_cost.values()) == {1.0}
    found = retrieved(states, texts, "standardised")
    assert (found["mrr"], found["mrr_text_to_speech"]) == (1.0, 1.0)
    assert row.chance == pytest.approx((1 + 1 / 7) / 2)
    changes = {"mode": "decide", "cost": "cosine", "threshold": 0.5}
    (decided,) = rank_layers([states], texts, settings(**changes), name="m").rows
    assert decided.selected and decided.pairs_touched <= QUERIES * 6  # rivals alone


def test_report_survives_a_save(tmp_path: Path) -> None:
    report = rank_layers(layers(), TEXTS, settings(), name="m")
    report.save(tmp_path / "layers.json")
    assert LayerReport.load(tmp_path / "layers.json") == report
    report.plot(tmp_path / "layers.png")
    assert (tmp_path / "layers.png").stat().st_size > 5_000
    with pytest.raises(ConfigError, match="layer report"):
        LayerReport.load(tmp_path / "layers.png")


def test_a_warning_with_brackets_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    report = rank_layers(layers(), TEXTS, settings(), name="m")
    monkeypatch.setattr(LayerReport, "warnings", ["dimension [/7] of [bold] holds all"])
    monkeypatch.setattr(select_module, "select", lambda settings: report)
    arguments = ["select", "--set", "model=m", "--set", "data=[d]", "--set", "output=o"]
    done = CliRunner().invoke(stages.app, arguments, catch_exceptions=False)
    assert "dimension [/7] of [bold] holds all" in done.output


def test_pairs_are_distinct_clips_and_the_draw_is_fixed() -> None:
    rows = [
        Utterance(id=f"{i}-{tgt}", audio=f"{i}.wav", text=f"t{i}", tgt_lang=tgt, translation="x", task="st")
        for i in range(20)
        for tgt in ("zh", "ja")
    ]
    drawn = draw_pairs(rows, 15, seed=4)
    assert drawn == draw_pairs(rows, 15, seed=4) != draw_pairs(rows, 15, seed=5)
    assert len({rows[i].audio for i in drawn}) == 15
    with pytest.raises(ManifestError, match="20 different clips"):
        draw_pairs(rows, 21, seed=4)
    short = [i % 4 < 2 for i in range(len(rows))]
    assert all(short[i] for i in draw_pairs(rows, 10, seed=4, usable=short))
    with pytest.raises(ManifestError, match="10 different clips"):
        draw_pairs(rows, 11, seed=4, usable=short)


def test_a_clip_is_its_file_its_place_and_its_channel() -> None:
    """Rows 0 and 1 are one clip; a caption is no transcript, and a row without sound or text no pair."""
    clip = Utterance(id="a", audio="a.wav", text="t", task="asr")
    changes = ({}, {}, {"offset": 2.0}, {"channel": 1}, {"task": "aac"}, {"text": None}, {"audio": None})
    assert clips_with_text(clip.model_copy(update=change) for change in changes) == [0, 2, 3]


@pytest.mark.slow
def test_clips_that_failed_are_too_many_to_choose_by_and_are_tried_again(tmp_path: Path) -> None:
    model = pretrain(tiny.pretrain_settings(tmp_path, max_steps=1)).folder
    rows = [
        row.model_copy(update={"duration": 0.4 + 0.125 * i})
        for i, row in enumerate(Manifest(tmp_path / "asr.jsonl"))
    ][:6]
    sounds = {str(row.audio): (tmp_path / str(row.audio)).read_bytes() for row in rows}
    write_manifest(tmp_path / "six.jsonl", rows)
    asked = {"model": str(model), "data": [str(tmp_path / "six.jsonl")], "num_pairs": 6, "batch_size": 4}
    whole = select(settings(output=str(tmp_path / "whole"), **asked))
    for name in list(sounds)[1:4]:
        (tmp_path / name).write_bytes(b"RIFF but no sound")
    chosen = settings(output=str(tmp_path / "select"), **asked)
    with pytest.raises(ManifestError, match="Too many pairs") as told:
        select(chosen)
    assert "3 of 6" in str(told.value)
    for name, content in sounds.items():
        (tmp_path / name).write_bytes(content)
    mended = select(chosen)
    assert [row.mrr for row in mended.rows] == [row.mrr for row in whole.rows]
    assert mended.rows[0].num_pairs == 6


@pytest.mark.slow
def test_select_probes_every_layer_of_a_model(tmp_path: Path) -> None:
    model = pretrain(tiny.pretrain_settings(tmp_path, max_steps=1)).folder
    chosen = settings(
        output=str(tmp_path / "select"),
        model=str(model),
        data=[str(tmp_path / "asr.jsonl")],
        num_pairs=6,
        max_seconds=1.3,
        batch_size=4,
    )
    report = select(chosen)
    assert [row.layer for row in report.rows] == [0, 1, 2, 3]
    assert all(0 < row.mrr <= 1 and row.mean_distance > 0 for row in report.rows)
    assert all(row.mrr_pessimistic <= row.mrr and sum(row.stages.values()) > 0 for row in report.rows)
    assert (tmp_path / "select/layers.png").exists() and not (tmp_path / "select/states").exists()
    assert select(chosen) == report
    with pytest.raises(ConfigError, match="other settings"):
        select(chosen.model_copy(update={"seed": 7}))
