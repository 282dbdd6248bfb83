"""Corpora: the same bytes on every run, resumable, and the held-out axes kept in what is written."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import soundfile

from aista.data.manifest import Manifest
from aista.demo import corpus, grammar, speech
from aista.errors import AistaError, ConfigError
from tools.standins.sounds import draw_sound

pytest.importorskip("espeakng_loader")
SCALE = corpus.Scale(st=5, asr=5, test_common=3, test_rare=3, aac=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("corpus")
    corpus.build(folder, SCALE, draw_sound=draw_sound, processes=2)
    return folder


def facts(folder: Path) -> dict[str, dict[str, object]]:
    return json.loads((folder / "corpus.json").read_text())["corpora"]


@pytest.mark.slow
def test_fresh_processes_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = corpus.build(tmp_path, SCALE, corpora=("st", "aac"), draw_sound=draw_sound, processes=1)
    assert {name: fact["sha256"] for name, fact in again.items()} == {
        name: facts(folder)[name]["sha256"] for name in ("st", "aac")
    }


@pytest.mark.slow
def test_a_finished_shard_is_kept_and_a_lost_one_is_made_again(folder: Path) -> None:
    before = facts(folder)
    record, other = folder / "shards" / "asr-000.json", folder / "shards" / "st-000.json"
    stamp = other.stat().st_mtime_ns
    record.unlink()
    corpus.build(folder, SCALE, draw_sound=draw_sound, processes=1)
    assert facts(folder) == before and other.stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_rows(folder: Path) -> None:
    rows = list(Manifest(folder / "st.jsonl"))
    assert len(rows) == 10 and Counter(row.tgt_lang for row in rows) == {"zh": 5, "ja": 5}
    for row in rows:
        assert row.task == "st" and row.id.endswith(f"-{row.tgt_lang}") and row.target.endswith("。")
        info = soundfile.info(folder / str(row.audio))
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert info.frames / 16_000 == row.duration and info.frames <= speech.MAX_SAMPLES
    transcribed = list(Manifest(folder / "st_asr.jsonl"))
    assert [row.audio for row in transcribed] == [row.audio for row in rows[::2]]
    assert {row.task for row in transcribed} == {"asr"}
    assert {row.task for row in Manifest(folder / "aac.jsonl")} == {"aac"}


def test_axes() -> None:
    scale = corpus.Scale(asr=150, st=150, test_common=60, test_rare=60, dev=40)
    drawn = {name: corpus.items(name, scale) for name in ("asr", "st", "test_common", "test_rare", "dev")}
    words = {
        name: {word for item in items for word in item.text.lower().replace(",", "").rstrip(".").split()}
        for name, items in drawn.items()
    }
    rare = {word.lower() for word in grammar.RARE_WORDS}
    assert not words["st"] & rare and not words["test_common"] & rare
    assert words["asr"] & rare and words["test_rare"] & rare
    heard = {name: {item.voice.variant for item in items if item.voice} for name, items in drawn.items()}
    for test in ("dev", "test_common", "test_rare"):
        assert not heard[test] & (heard["st"] | heard["asr"])
    assert not {item.text for item in drawn["st"]} & {item.text for item in drawn["test_common"]}


def test_a_corpus_does_not_depend_on_the_others() -> None:
    assert corpus.items("dev", corpus.Scale(dev=5)) == corpus.items("dev", corpus.Scale(dev=5, st=100))
    assert corpus.items("dev", corpus.Scale(dev=5)) != corpus.items("dev", corpus.Scale(dev=5, seed=1))


def test_a_text_too_long_is_read_faster_or_left_out() -> None:
    voice = speech.Voice("en-us", "f1", 115, 50, 50, 30.0, "white", 0.5)
    text = "The famous doctor bought a red book in the park."
    slow = speech.utter(text, voice, seed=1)
    assert slow is not None
    quick = speech.utter(text, voice, seed=1, max_samples=len(slow) - 800)
    assert quick is not None and len(quick) <= len(slow) - 800
    assert speech.utter(text, voice, seed=1, max_samples=8_000) is None


def test_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown corpus"):
        corpus.items("train", SCALE)
    monkeypatch.setitem(__import__("sys").modules, "espeakng_loader", None)
    with pytest.raises(AistaError, match=r"\.\[demo\]"):
        corpus.build(tmp_path, SCALE, draw_sound=draw_sound)
