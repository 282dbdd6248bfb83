"""Any system is scored as our models are: the same files, resumable, unreadable clips told and counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from aista.audio.files import write_audio
from aista.cli import evaluate as evaluate_verb
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.errors import ConfigError
from aista.evaluation.decode import read_hypotheses
from aista.evaluation.evaluate import EvaluateSettings, ScoreSettings, compare, evaluate, hears, score
from aista.inference.translating import Answer, GenerationSettings, Request, SpeechTranslator
from aista.inference.translator import load
from aista.model.processing import AistaProcessor
from aista.model.speech_lm import AistaForConditionalGeneration
from tests import tiny


class Counter(SpeechTranslator):
    """Answers with the number of tenths of a second that are not silent."""

    name, tasks, reads_text = "counter", frozenset({"st", "asr"}), True

    def __init__(self, deaf: bool = False, batch_size: int = 4, dies_at: int | None = None) -> None:
        self.generation = GenerationSettings(batch_size=batch_size)
        self.deaf, self.dies_at, self.asked = deaf, dies_at, 0

    @property
    def longest_seconds(self) -> float:
        return 1.0

    def answer(self, pieces, request: Request) -> list[Answer]:
        assert len(pieces) <= self.generation.batch_size and all(len(p) <= 16_000 for p in pieces)
        self.asked += len(pieces)
        if self.dies_at is not None and self.asked > self.dies_at:
            raise KeyboardInterrupt
        mark = {"zh": "好", "ja": "良", "en": "a "}[request.target]
        return [Answer(mark * (1 if self.deaf or not p.any() else 1 + len(p) // 1_600)) for p in pieces]

    def answer_texts(self, texts, request: Request) -> list[Answer]:
        return [Answer("好" * len(text), error="refused" if "red" in text else None) for text in texts]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six clips of up to 1 s, asked for in two languages and for a transcript; one of 2.5 s, one broken."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(6):
        write_audio(tmp_path / f"{i}.wav", (0.2 * rng.standard_normal(3_200 + 2_000 * i)).astype(np.float32))
        common = {"audio": f"{i}.wav", "text": tiny.TEXTS[i]}
        rows.append(Utterance(id=f"zh{i}", task="st", tgt_lang="zh", translation="好" * (3 + i), **common))
        rows.append(Utterance(id=f"ja{i}", task="st", tgt_lang="ja", translation="良い", **common))
    rows.append(Utterance(id="asr", task="asr", **common))
    rows.append(Utterance(id="de", task="st", tgt_lang="de", translation="gut", **common))
    swell = np.abs(np.sin(np.arange(40_000) / 1_600))
    write_audio(tmp_path / "long.wav", (0.2 * swell * rng.standard_normal(40_000)).astype(np.float32))
    rows.append(Utterance(id="long", task="st", tgt_lang="zh", translation="好" * 20, audio="long.wav"))
    (tmp_path / "broken.wav").write_text("no sound")
    rows.append(Utterance(id="broken", task="st", tgt_lang="zh", translation="好", audio="broken.wav"))
    rows.append(Utterance(id="gone", task="asr", text="Gone.", audio="gone.wav"))
    write_manifest(tmp_path / "set.jsonl", rows)
    return tmp_path


def settings(folder: Path, output: str = "out", **changes) -> ScoreSettings:
    values = {"output": str(folder / output), "data": [str(folder / "set.jsonl")], **changes}
    return ScoreSettings.of(values)


class German(Counter):
    directions = ("en-zh", "en-ja", "en-en")


@pytest.mark.slow
def test_the_files_and_keys_are_those_of_an_evaluation_of_our_model(folder):
    home = folder / "ours"
    bases = str(tiny.whisper(home / "whisper")), str(tiny.language_model(home / "lm"))
    qformer = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    AistaForConditionalGeneration.from_bases(*bases, qformer=qformer).save_pretrained(home / "model")
    AistaProcessor.from_bases(*bases).save_pretrained(home / "model")
    tiny.manifest(home / "st.jsonl", count=4)
    common = {"data": [str(home / "st.jsonl")], "measures": ["speech", "text_translation"]}
    search = {"max_new_tokens": 5}
    values = {"model": str(home / "model"), "output": str(home / "out"), "generation": search, **common}
    ours = evaluate(EvaluateSettings.of(values))
    other = load(home / "model", device="cpu", **search)
    theirs = score(other, ScoreSettings.of({"output": str(home / "other"), **common}), {"id": "model"})
    assert theirs["scores"] == ours["scores"] and theirs["by_set"] == ours["by_set"]
    assert set(theirs) - set(ours) == {"baseline"} and set(ours) <= set(theirs)
    for kind in ("speech", "text"):
        name = f"st.{kind}.jsonl"
        assert (home / "out" / name).read_bytes() == (home / "other" / name).read_bytes()
    assert compare(home / "out", home / "other")["bleu_zh"].difference == 0
    assert theirs["baseline"]["id"] == "model" and theirs["model"] == str(home / "model")


def test_errors_are_rows_directions_are_asked_apart_and_long_clips_are_cut(folder):
    found = score(German(), settings(folder))
    rows = {row.id: row for row in read_hypotheses(folder / "out/set.speech.jsonl")}
    assert len(rows) == 16 and "de" not in rows
    assert rows["zh0"].hypothesis == "好" * 3 and rows["ja0"].hypothesis == "良" * 3
    assert len(rows["long"].hypothesis) >= 25  # of three pieces
    assert rows["broken"].hypothesis == "" and "broken.wav" in rows["broken"].error
    assert "error" not in (folder / "out/set.speech.jsonl").read_text().strip().split("\n")[0]
    warnings = " ".join(found["warnings"])
    assert "2 of 16 rows failed and count as empty" in warnings and "1 rows left out" in warnings
    assert "en-de" in warnings and set(found["scores"]) == {
        "bleu_zh",
        "chrf_zh",
        "bleu_ja",
        "chrf_ja",
        "wer_en",
    }
    assert found["by_set"]["set"]["num_utterances"] == 17


def test_it_goes_on_where_it_was_killed_and_asks_failed_rows_again(folder):
    whole = score(German(), settings(folder, "whole"))
    with pytest.raises(KeyboardInterrupt):
        score(German(dies_at=9), settings(folder))
    before = len(read_hypotheses(folder / "out/set.speech.jsonl"))
    assert 0 < before < 16 and not (folder / "out/results.json").exists()
    write_audio(folder / "broken.wav", np.full(8_000, 0.1, np.float32))  # mended meanwhile
    again = German()
    found = score(again, settings(folder))
    rows = {row.id: row for row in read_hypotheses(folder / "out/set.speech.jsonl")}
    assert len(rows) == 16 and rows["broken"].error is None and rows["gone"].error
    assert found["scores"]["bleu_ja"] == whole["scores"]["bleu_ja"]
    finished = German()
    assert score(finished, settings(folder)) == found and finished.asked == 0
    with pytest.raises(ConfigError, match="another model"):
        score(German(), settings(folder), {"id": "somebody else"})


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_changes_nothing(folder, batch_size):
    one = score(German(batch_size=16), settings(folder, "one"))
    other = score(German(batch_size=batch_size), settings(folder, "other"))
    assert one["scores"] == other["scores"] and one["model_fingerprint"] == other["model_fingerprint"]


def test_a_system_that_does_not_hear_is_told(folder):
    dataset = SpeechDataset(Manifest(folder / "set.jsonl"))
    assert hears(German(), dataset) and not hears(German(deaf=True), dataset)
    deaf = score(German(deaf=True), settings(folder, "deaf"))
    assert any("does not hear" in warning for warning in deaf["warnings"])
    quiet = score(German(deaf=True), settings(folder, "quiet", silence_check=False))
    assert not any("does not hear" in warning for warning in quiet["warnings"])


def test_a_service_that_is_down_is_not_called_deaf(folder, monkeypatch):
    answer = German.answer
    monkeypatch.setattr(German, "answer", lambda self, pieces, _: [Answer("", error="down") for _ in pieces])
    dataset = SpeechDataset(Manifest(folder / "set.jsonl"))
    assert hears(German(), dataset) is None
    down = score(German(), settings(folder))
    assert not any("does not hear" in warning for warning in down["warnings"])
    monkeypatch.setattr(German, "answer", answer)
    later = score(German(deaf=True), settings(folder, limit=16))  # another attempt in the same folder
    assert any("does not hear" in warning for warning in later["warnings"])


def test_what_a_failing_service_seemed_to_hear_is_asked_again(folder, monkeypatch):
    """It had answered one short clip, with and without its sound, and nothing else."""
    with monkeypatch.context() as patch:

        def failing(self, pieces, _):
            return [Answer("" if len(p) > 3_200 else "x", error="down" * (len(p) > 3_200)) for p in pieces]

        patch.setattr(German, "answer", failing)
        down = score(German(), settings(folder))
    assert any("does not hear" in warning for warning in down["warnings"])
    up = score(German(), settings(folder, measures=["speech", "obedience"]))  # in the same folder
    assert not any("does not hear" in warning for warning in up["warnings"])


def test_text_in_place_of_speech_limits_and_what_cannot_be_asked(folder):
    found = score(German(), settings(folder, measures=["text_translation"], limit=6))
    assert set(found["scores"]) == {"mt_bleu_zh", "mt_chrf_zh", "mt_bleu_ja", "mt_chrf_ja"}
    assert any("2 of 6 rows failed" in warning and "refused" in warning for warning in found["warnings"])
    blind = German()
    blind.reads_text = False
    both = score(blind, settings(folder, "blind", measures=["speech", "text_translation"]))
    assert any("takes no text" in warning for warning in both["warnings"])
    nobody = German()
    nobody.tasks = frozenset({"aac"})
    with pytest.raises(ConfigError, match="can answer no row"):
        score(nobody, settings(folder, "nobody"))


def test_by_the_command_line(folder):
    out = folder / "cli"
    base = ["--baseline", "tests.baselines.third_party", "--data", str(folder / "set.jsonl")]
    base += ["--output", str(out), "--json"]
    run = CliRunner().invoke(
        evaluate_verb.app, [*base, "--set", "limit=4", "--set", "generation.num_beams=2"]
    )
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert found["settings"]["baseline"] == "tests.baselines.third_party"
    assert found["baseline"]["generation"]["num_beams"] == 2
    assert found == json.loads((out / "results.json").read_text())
    again = CliRunner().invoke(evaluate_verb.app, ["--config", str(out / "settings.yaml"), "--json"])
    assert again.exit_code == 0 and json.loads(again.stdout) == found  # the file names the baseline
    (folder / "set[zh].jsonl").write_bytes((folder / "set.jsonl").read_bytes())
    base[base.index(str(folder / "set.jsonl"))] = str(folder / "set[zh].jsonl")
    base[base.index(str(out))] = str(folder / "brackets")
    shown = CliRunner().invoke(evaluate_verb.app, [*base[:-1], "--set", "limit=2"], catch_exceptions=False)
    assert "set[zh]" in shown.stdout
    lonely = CliRunner().invoke(evaluate_verb.app, ["--baseline-option", "a=1"])
    assert isinstance(lonely.exception, ConfigError)
