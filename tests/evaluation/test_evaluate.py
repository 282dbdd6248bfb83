"""Evaluation of a real (tiny, random) model: resumable, the same in any batch or cache, right by oracles."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import ot as pot
import pytest
import torch
from typer.testing import CliRunner

from aista.audio.files import write_audio
from aista.cli import evaluate as evaluate_verb
from aista.data.dataset import Collator, SpeechDataset
from aista.data.feature_store import FeatureStore
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.errors import ConfigError, EvaluationError
from aista.evaluation import evaluate as module
from aista.evaluation.decode import (
    decode,
    read_hypotheses,
    teacher_forced_accuracy,
    transport_costs,
    transport_map,
)
from aista.evaluation.evaluate import EvaluateSettings, compare, evaluate, hears
from aista.experiments.demo_page import write_report
from aista.inference.translating import GenerationSettings
from aista.inference.translator import Translator, answer, load
from aista.model.processing import AistaProcessor
from aista.model.speech_lm import AistaForConditionalGeneration
from tests import tiny
from tests.evaluation.standins import Model, Processor, tone
from tests.experiments import invented_demo as invented

QFORMER = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
SHORT = GenerationSettings(max_new_tokens=6, batch_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a test set of translations and one of transcripts."""
    home = tmp_path_factory.mktemp("evaluation")
    bases = str(tiny.whisper(home / "whisper")), str(tiny.language_model(home / "lm"))
    for name, seed in (("model", 1), ("other", 2)):
        model = AistaForConditionalGeneration.from_bases(*bases, qformer=QFORMER, seed=seed)
        with torch.no_grad():  # loud enough that the sound matters to a random language model
            model.trainable_state_dict()["window_qformer.projection.weight"].mul_(100.0)
        model.save_pretrained(home / name)
        AistaProcessor.from_bases(*bases).save_pretrained(home / name)
    tiny.manifest(home / "st.jsonl", count=6)
    tiny.manifest(home / "asr.jsonl", count=3, task="asr")
    return home


@pytest.fixture(scope="module")
def translator(folder: Path) -> Translator:
    return load(folder / "model", device="cpu", max_new_tokens=6)


def settings(folder: Path, output: Path, **changes) -> EvaluateSettings:
    values = {
        "output": str(output),
        "model": str(folder / "model"),
        "data": [str(folder / "st.jsonl"), str(folder / "asr.jsonl")],
        "layers": [0, 2],
        "generation": {"max_new_tokens": 6, "batch_size": 4},
    }
    return EvaluateSettings.of({**values, **changes})


@pytest.fixture(scope="module")
def results(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return evaluate(settings(folder, tmp_path_factory.mktemp("out")))


def texts(rows) -> list[str]:
    return [row.text for row in rows]


@pytest.mark.slow
def test_every_measure_comes_out_with_its_signature(results):
    names = {"bleu_zh", "chrf_zh", "mt_bleu_zh", "mt_chrf_zh", "wer_en", "token_accuracy", "log_wasserstein"}
    assert set(results["scores"]) == names and all(map(math.isfinite, results["scores"].values()))
    assert "tok:zh" in results["signatures"]["bleu_zh"] and "unit:word" in results["signatures"]["wer_en"]
    assert set(results["by_set"]) == {"st", "asr"} and results["by_set"]["asr"]["num_utterances"] == 3
    assert "bleu_zh" not in results["by_set"]["asr"]["scores"]
    assert set(results["log_wasserstein_by_layer"]) == {"0", "2"}
    counted = {"bleu_zh": 6, "chrf_zh": 6, "mt_bleu_zh": 6, "mt_chrf_zh": 6, "wer_en": 3}
    assert results["num_scored"] == {**counted, "token_accuracy": 9, "log_wasserstein": 9}
    unfinished = results["by_set"]["st"]["num_unfinished"]["bleu_zh"]  # six tokens: most are cut
    assert unfinished and any(f"{unfinished} of 6 rows" in text for text in results["warnings"])
    assert results["versions"]["sacrebleu"] and len(results["model_fingerprint"]) == 64
    saved = Path(results["settings"]["output"]) / "results.json"
    assert json.loads(saved.read_text()) == results


@pytest.mark.parametrize("num_beams", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_batch_size_changes_no_hypothesis(folder, translator, num_beams):
    dataset = SpeechDataset(Manifest(folder / "st.jsonl"))
    sounds, prompts = [dataset[i][1] for i in range(6)], [f"Say {i}." for i in range(6)]
    found = []
    for size in (1, 2, 6):
        generation = GenerationSettings(max_new_tokens=6, batch_size=size, num_beams=num_beams)
        found.append(texts(answer(translator.speech_llm, sounds, prompts, generation)))
    assert found[0] == found[1] == found[2] and len(set(found[0])) > 1


@pytest.mark.slow
def test_cached_features_give_the_same_hypotheses(folder, tmp_path, results):
    cached = evaluate(settings(folder, tmp_path / "out", features=str(tmp_path / "features")))
    for name in ("st", "asr"):
        one, other = (
            [
                row.hypothesis
                for row in read_hypotheses(Path(r["settings"]["output"]) / f"{name}.speech.jsonl")
            ]
            for r in (results, cached)
        )
        assert sorted(one) == sorted(other)
    assert cached["scores"] == pytest.approx(results["scores"], rel=1e-3)


def test_features_are_encoded_of_the_rows_that_are_asked_for(folder, tmp_path):
    """A look at a few rows of a large test set must not encode all of it."""
    few = {"limit": 2, "features": str(tmp_path / "features")}
    evaluate(settings(folder, tmp_path / "out", **few))
    assert 2 <= len(FeatureStore(tmp_path / "features")) <= 4  # of two sets with six clips in all


def test_features_are_of_what_is_heard_at_once_and_the_rest_is_cut(folder, tmp_path):
    """A clip that is longer than the model hears is heard in pieces, as without features."""
    long = tmp_path / "long.jsonl"
    rows = [
        row.model_copy(update={"audio": str(Manifest(folder / "st.jsonl").audio_path(row))})
        for row in list(Manifest(folder / "st.jsonl"))[:2]
    ]
    write_audio(tmp_path / "long.wav", (np.random.default_rng(0).normal(size=40 * 16_000) * 0.1).astype("f4"))
    voice = (np.random.default_rng(1).normal(size=16_000) * 0.1).astype("f4")
    write_audio(tmp_path / "late.wav", np.concatenate([np.zeros(48_000, np.float32), voice]))
    write_audio(tmp_path / "silent.wav", np.zeros(48_000, np.float32))
    write_audio(tmp_path / "full.wav", np.tile(voice, 30))
    more = (("long", 40.0), ("late", 4.0), ("silent", 3.0), ("full", 30.02))  # the last: as headers round it
    rows += [
        rows[0].model_copy(update={"id": name, "audio": f"{name}.wav", "duration": seconds})
        for name, seconds in more
    ]
    write_manifest(long, rows)
    found = []
    for name, more in (("sound", {}), ("cached", {"features": str(tmp_path / "features")})):
        asked = settings(folder, tmp_path / name, data=[str(long)], silence_check=False, **more)
        evaluate(asked)
        rows_of = read_hypotheses(tmp_path / name / "long.speech.jsonl")
        assert not any(row.error for row in rows_of)
        found.append({row.id: row.hypothesis for row in rows_of})
    assert found[0] == found[1] and found[0]["silent"] == "" and len(found[0]) == 6
    write_manifest(long, [*rows, rows[2].model_copy(update={"text": "Twice."})])
    with pytest.raises(EvaluationError, match=r"(?s)stands twice.*data check"):
        evaluate(settings(folder, tmp_path / "twice", data=[str(long)], features=str(tmp_path / "features")))


def test_an_interrupted_decoding_goes_on_where_it_stopped(folder, tmp_path, translator):
    dataset = SpeechDataset(Manifest(folder / "st.jsonl"))
    system = Translator(translator.model, translator.processor, generation=SHORT)
    whole = decode(system, dataset, tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "b.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:20])
    (tmp_path / "b.settings.json").write_text((tmp_path / "a.settings.json").read_text())
    assert decode(system, dataset, tmp_path / "b.jsonl") == whole
    assert len((tmp_path / "b.jsonl").read_text().strip().split("\n")) == len(dataset)
    system.generation = SHORT.model_copy(update={"num_beams": 2})
    with pytest.raises(EvaluationError, match="other settings"):
        decode(system, dataset, tmp_path / "b.jsonl")


def test_a_finished_evaluation_is_read_and_another_model_is_not_mistaken_for_it(folder, results, monkeypatch):
    out = Path(results["settings"]["output"])
    monkeypatch.setattr("aista.inference.translator.load", lambda *_: pytest.fail("loaded again"))
    assert evaluate(settings(folder, out)) == results
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"model was .*, is .*other"):
        evaluate(settings(folder, out, model=str(folder / "other")))


def test_an_id_that_stands_twice_is_refused(folder, tmp_path, translator):
    rows = [Utterance(id="x", text="a", translation="好", tgt_lang="zh", task="mt")] * 2
    write_manifest(tmp_path / "twice.jsonl", rows)
    dataset = SpeechDataset(Manifest(tmp_path / "twice.jsonl"))
    with pytest.raises(EvaluationError, match="twice"):
        decode(translator, dataset, tmp_path / "x.jsonl")


def test_zero_shot_text_translation_keeps_the_prompt_and_replaces_the_speech(folder, results):
    out = Path(results["settings"]["output"])
    rows = read_hypotheses(out / "st.text.jsonl")
    assert {row.task for row in rows} == {"mt"} and len(rows) == 6
    spoken = {row.id: row for row in read_hypotheses(out / "st.speech.jsonl")}
    assert all(spoken[row.id].reference == row.reference and row.source for row in rows)


def test_log_wasserstein_is_pots(folder, translator):
    pairs = SpeechDataset(Manifest(folder / "st.jsonl")).subset(range(3))
    costs = transport_costs(translator.speech_llm, pairs, [2])["2"]
    batch = Collator(translator.speech_llm.batcher, transcripts=True)([pairs[i] for i in range(3)])
    heard, read = batch["speech"], batch["text"]
    with torch.no_grad():
        spoken = translator.model(
            heard.input_ids, heard.attention_mask, output_hidden_states=True, **heard.sound
        ).hidden_states[2]
        written = translator.speech_llm.text_states(read, (2,))[2]
    for row in range(3):
        s = spoken[row][heard.span[row]].double().numpy()
        t = written[row][read.span[row]].double().numpy()
        assert math.exp(costs[row]) == pytest.approx(pot.emd2([], [], pot.dist(s, t)), rel=1e-5)


def test_the_transport_map_moves_all_mass_once(folder, translator):
    pairs = SpeechDataset(Manifest(folder / "st.jsonl")).subset([1])
    [found] = transport_map(translator.speech_llm, pairs, 0)
    plan = np.array(found.plan)
    assert plan.shape[1] == len(found.tokens) and "".join(found.tokens) == next(pairs.utterances()).text
    np.testing.assert_allclose(plan.sum(0), 1 / plan.shape[1])
    np.testing.assert_allclose(plan.sum(1), 1 / plan.shape[0])


def test_token_accuracy_is_that_of_row_by_row_argmax(folder, translator):
    dataset = SpeechDataset(Manifest(folder / "st.jsonl"))
    right = total = 0
    for i in range(len(dataset)):
        batch = Collator(translator.speech_llm.batcher)([dataset[i]])["speech"]
        with torch.no_grad():
            best = translator.speech_llm.predict(batch, logits="all").logits[0].argmax(-1)
        for position, label in enumerate(batch.labels[0].tolist()):
            if label != -100:
                total += 1
                right += int(best[position - 1]) == label
    assert teacher_forced_accuracy(translator.speech_llm, dataset) == (right, total)


def test_a_model_that_does_not_hear_is_found_out(folder):
    dataset = SpeechDataset(Manifest(folder / "st.jsonl"))
    assert hears(Translator(Model(), Processor()), dataset)

    class Deaf(Processor):
        def __call__(self, *, audio, **question):
            return super().__call__(audio=[np.ones_like(sound) for sound in audio], **question)

    assert not hears(Translator(Model(), Deaf()), dataset)


def test_long_clips_are_translated_whole_and_left_out_where_they_must_be_heard_at_once(
    folder, tmp_path, translator
):
    from aista.audio.files import write_audio

    write_audio(tmp_path / "long.wav", tone(2.5 * translator.longest_seconds))
    write_audio(tmp_path / "short.wav", tone(1.0))
    common = {"tgt_lang": "zh", "task": "st", "text": "It is late.", "translation": "好"}
    write_manifest(
        tmp_path / "mixed.jsonl",
        [Utterance(id=name, audio=f"{name}.wav", **common) for name in ("long", "short")],
    )
    found = evaluate(settings(folder, tmp_path / "out", data=[str(tmp_path / "mixed.jsonl")]))
    assert any("1 clips are longer" in text for text in found["warnings"])
    rows = {row.id: row for row in read_hypotheses(tmp_path / "out" / "mixed.speech.jsonl")}
    translator.vad = False  # an evaluation hears a clip as it is
    pieces = translator.translate(tmp_path / "long.wav", target="zh").segments
    assert len(pieces) >= 3 and rows["long"].hypothesis == "".join(piece.text for piece in pieces)


@pytest.mark.slow
def test_two_evaluations_are_compared_on_the_same_rows_only(folder, results, tmp_path):
    other = evaluate(
        settings(
            folder, tmp_path / "other", model=str(folder / "other"), measures=["speech", "text_translation"]
        )
    )
    ours = Path(results["settings"]["output"])
    found = compare(ours, tmp_path / "other")
    assert set(found) == {"bleu_zh", "mt_bleu_zh"}
    assert found["bleu_zh"].system == pytest.approx(other["scores"]["bleu_zh"])
    evaluate(settings(folder, tmp_path / "part", data=[str(folder / "st.jsonl")], measures=["speech"]))
    with pytest.raises(EvaluationError, match="same questions"):
        compare(ours, tmp_path / "part")


def test_the_verb_prints_scores_and_signatures(folder, results):
    out = Path(results["settings"]["output"])
    config = ["--config", str(out / "settings.yaml")]
    shown = CliRunner().invoke(evaluate_verb.app, config)
    assert shown.exit_code == 0 and "bleu_zh" in shown.stdout and "tok:zh" in shown.stdout
    as_json = CliRunner().invoke(evaluate_verb.app, [*config, "--json"])
    assert json.loads(as_json.stdout)["scores"] == results["scores"]


def test_limit_and_equal_names(folder, tmp_path):
    found = evaluate(settings(folder, tmp_path / "out", limit=2, measures=["token_accuracy"]))
    assert found["by_set"]["st"]["num_utterances"] == 2 and set(found["scores"]) == {"token_accuracy"}
    with pytest.raises(EvaluationError, match="same file name"):
        evaluate(settings(folder, tmp_path / "twice", data=[str(folder / "st.jsonl")] * 2))
    assert module.RESULTS == "results.json"


@pytest.mark.slow
def test_the_report_is_gathered_from_what_a_demo_leaves_behind(folder, tmp_path):
    demo = tmp_path / "demo"
    demo.mkdir()
    (demo / "corpus").symlink_to(folder)
    for key, name in (("base", "model"), ("ai_sta", "other")):
        shutil.copytree(folder / name, demo / key)
        (demo / key / "history.json").write_text('[{"step": 1, "ce": 2.0}, {"step": 2, "ce": 1.5}]')
        changes = {
            "model": str(demo / key),
            "data": [str(demo / "corpus" / "st.jsonl")],
            "measures": ["speech"],
        }
        evaluate(settings(folder, demo / "evaluate" / key, **changes, silence_check=False))
    (demo / "configs").mkdir()
    (demo / "configs" / "joint.yaml").write_text("alpha: 0.99\n")
    results = invented.results()
    for system in results["systems"].values():
        system["by_set"] = {"st": system["by_set"]["test_rare"]}
    (demo / "results.json").write_text(json.dumps(results))
    page = write_report(demo).read_text(encoding="utf-8")
    assert page.count('<article class="clip">') == 3 and "where the two differ most" in page
    assert page.count('class="plan"') == 2 and "alpha: 0.99" in page and "A bell rings." in page
    assert "cross-entropy" in page
    assert not re.search(r"(?:src=|url\(|<link[^>]*href=)[\"']?http", page)  # nothing is fetched


def test_a_clip_that_cannot_be_read_costs_its_row_alone(folder, tmp_path):
    rows = list(Manifest(folder / "st.jsonl"))[:2]
    (tmp_path / "broken.wav").write_text("no sound")
    whole = rows[0].model_copy(update={"audio": str(folder / rows[0].audio)})
    broken = rows[1].model_copy(update={"audio": "broken.wav", "duration": 1.0})
    write_manifest(tmp_path / "mixed.jsonl", [whole, broken])
    changes = {
        "data": [str(tmp_path / "mixed.jsonl")],
        "measures": ["speech", "token_accuracy", "log_wasserstein"],
    }
    found = evaluate(settings(folder, tmp_path / "out", **changes))
    assert found["num_scored"]["bleu_zh"] == 2
    assert any("1 of 2 rows failed" in text and "broken.wav" in text for text in found["warnings"])
    assert found["num_scored"]["token_accuracy"] == found["num_scored"]["log_wasserstein"] == 1
    assert any("1 clips cannot be read" in text for text in found["warnings"])


def test_a_distance_without_a_layer_is_left_out_and_told(folder, tmp_path):
    (tmp_path / "layers.json").write_text('{"selected": []}')
    chosen = {"layers": str(tmp_path / "layers.json"), "measures": ["token_accuracy", "log_wasserstein"]}
    found = evaluate(settings(folder, tmp_path / "out", data=[str(folder / "asr.jsonl")], **chosen))
    assert set(found["scores"]) == {"token_accuracy"}
    assert found["warnings"] == ["asr: log_wasserstein left out: no layer is chosen (layers)"]
