"""Beside every score: how many rows it rests on, how many answers were cut, and what may have bent it."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics import bleu as bleu_module

from aista.audio.files import write_audio
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.errors import ConfigError, EvaluationError
from aista.evaluation.decode import Hypothesis, read_hypotheses
from aista.evaluation.evaluate import ScoreSettings, compare, score
from aista.evaluation.metrics import obeys
from aista.evaluation.results import part_warnings
from aista.inference.translating import Answer, GenerationSettings, Request, SpeechTranslator
from aista.text.prompts import LANGUAGES


class Parrot(SpeechTranslator):
    """Answers what it was told to, row by row; one that ends in a dash was cut."""

    name, tasks, reads_text = "parrot", frozenset({"st", "asr", "aac"}), True
    generation = GenerationSettings(batch_size=1, max_new_tokens=5)
    longest_seconds = 100.0

    def __init__(self, answers: dict[int, str]) -> None:
        self.answers = answers

    def answer(self, pieces, request: Request) -> list[Answer]:
        texts = [self.answers[len(piece)] for piece in pieces]  # a clip is known by its length
        return [Answer(text, finished=not text.endswith("-")) for text in texts]

    def answer_texts(self, texts, request: Request) -> list[Answer]:
        return [Answer(text, finished=not text.endswith("-")) for text in texts]


def run(folder: Path, rows: list[tuple[str, str | None, str]], output: str = "out", **changes):
    """Score (task, reference, answer) rows; ids are r0, r1, ..."""
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(0)
    utterances, answers = [], {}
    for number, (task, reference, answer) in enumerate(rows):
        samples = (0.1 * noise.standard_normal(1_600 + number)).astype(np.float32)
        answers[len(samples)] = answer
        write_audio(folder / f"{number}.wav", samples)
        values = {"id": f"r{number}", "audio": f"{number}.wav", "task": task}
        if task == "st":
            values |= {
                "tgt_lang": changes.get("language", "ja"),
                "text": changes.get("source", "Well."),
                "translation": reference,
            }
        else:
            values |= {"text": reference}
        utterances.append(Utterance(**values))
    write_manifest(folder / "set.jsonl", utterances)
    measures = changes.get("measures", ["speech"])
    values = {"output": str(folder / output), "data": [str(folder / "set.jsonl")], "measures": measures}
    return score(Parrot(answers), ScoreSettings.of({**values, "silence_check": False}))


@pytest.mark.parametrize("blank", [None, "", " ", "\t", "\u3000", "\u200b"])
def test_rows_without_a_reference_are_counted_and_told(tmp_path, blank):
    rows = [("st", "良い", "良い"), ("st", blank, "何か"), ("asr", "Well.", "well"), ("asr", blank, "odd")]
    rows += [("asr", "Good.", "bad"), ("aac", "A dog.", "A dog."), ("aac", blank, "A cat.")]
    found = run(tmp_path, rows)
    assert found["num_scored"] == {"bleu_ja": 1, "chrf_ja": 1, "wer_en": 2, "chrf_captions": 1}
    part = found["by_set"]["set"]
    assert part["num_scored"] == found["num_scored"] and part["num_utterances"] == 7
    assert found["scores"]["wer_en"] == 50 and found["scores"]["chrf_captions"] == pytest.approx(100)
    assert any("3 of 7 rows (r1, r3, r6) have no reference" in text for text in found["warnings"])


def test_a_transcript_without_a_word_is_scored_by_no_error_rate(tmp_path):
    found = run(tmp_path, [("asr", "...", "well"), ("asr", "Well.", "well")])
    assert found["scores"]["wer_en"] == 0 and found["num_scored"]["wer_en"] == 1
    assert any("1 of 2 rows (r0) have a reference without a word" in text for text in found["warnings"])
    mute = run(tmp_path / "mute", [("asr", "...", "well"), ("st", "良い", "良い")])
    assert set(mute["scores"]) == {"bleu_ja", "chrf_ja"}


def test_answers_that_were_cut_are_counted_beside_every_score(tmp_path):
    rows = [
        ("st", "良い", "良い"),
        ("st", "良い", "良い良い-"),
        ("asr", "Well.", "well"),
        ("st", "良い", "良い"),
    ]
    found = run(tmp_path, rows, measures=["speech", "text_translation"])
    assert found["num_unfinished"] == {
        "bleu_ja": 1, "chrf_ja": 1, "wer_en": 0, "mt_bleu_ja": 0, "mt_chrf_ja": 0,
    }  # fmt: skip
    assert found["by_set"]["set"]["num_unfinished"] == found["num_unfinished"]
    [told] = [text for text in found["warnings"] if "max_new_tokens" in text]
    assert "1 of 3 rows (r1) (bleu_ja) reached max_new_tokens = 5" in told
    kept = {row.id: row.finished for row in read_hypotheses(tmp_path / "out/set.speech.jsonl")}
    assert kept == {"r0": True, "r1": False, "r2": True, "r3": True}


def test_marks_that_bend_bleu_are_told(tmp_path):
    plain = "プログラムが、がぎぐげご。"
    split = unicodedata.normalize("NFD", plain)
    assert split != plain
    found = run(tmp_path / "form", [("st", plain, split), ("st", plain, plain), ("st", split, split)])
    [told] = [text for text in found["warnings"] if "NFC" in text]
    assert "2 of 3 rows (r0, r2)" in told
    found = run(tmp_path / "marks", [("st", plain, plain + "\u200b"), ("st", "\ufeff" + plain, plain)])
    [told] = found["warnings"]
    assert "2 of 2 rows (r0, r1)" in told and "nobody sees" in told
    quiet = run(tmp_path / "wer", [("asr", "He\u200bllo the\u0301", "hello th\u00e9")])
    assert quiet["scores"]["wer_en"] == 0 and not quiet["warnings"]


def test_nothing_odd_is_nothing_told(tmp_path):
    assert run(tmp_path, [("st", "良い", "良い"), ("asr", "It's well.", "it’s well")])["warnings"] == []


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\x0b", "\x1e"])
def test_hypotheses_with_line_separators_are_read_again(tmp_path, mark):
    rows = [("st", f"良い{mark}悪い", f"良い{mark}悪い"), ("asr", f"One.{mark}Two.", f"one{mark}two")]
    first = run(tmp_path, rows)
    (tmp_path / "out/results.json").unlink()
    again = run(tmp_path, rows)
    assert again["scores"] == first["scores"] and again["scores"]["wer_en"] == 0
    assert compare(tmp_path / "out", tmp_path / "out")["bleu_ja"].p_value == 1


def test_only_evaluations_of_the_same_data_are_compared(tmp_path):
    rows = [("st", "良い天気です", "良い天気"), ("st", "悪い天気です", "悪い天気です")]
    run(tmp_path / "one", rows)
    run(tmp_path / "same", [(*row[:2], "天気です") for row in rows])
    assert compare(tmp_path / "one/out", tmp_path / "same/out")["bleu_ja"].num_segments == 2
    run(tmp_path / "reference", [rows[0], ("st", "酷い天気です", "悪い天気です")])
    with pytest.raises(EvaluationError, match="same reference"):
        compare(tmp_path / "one/out", tmp_path / "reference/out")
    run(tmp_path / "source", rows, source="Bad.")
    with pytest.raises(EvaluationError, match="same source"):
        compare(tmp_path / "one/out", tmp_path / "source/out")
    results = tmp_path / "same/out/results.json"
    found = json.loads(results.read_text(encoding="utf-8"))
    found["data_sha256"]["set"] = "0" * 64  # the texts are the same, the sound was another
    results.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(EvaluationError, match="versions of a manifest"):
        compare(tmp_path / "one/out", tmp_path / "same/out")


def test_only_the_rows_of_the_last_limit_are_compared_and_there_must_be_some(tmp_path):
    run(tmp_path, [("st", "良い", "良い"), ("st", "悪い", "悪い")])
    assert compare(tmp_path / "out", tmp_path / "out")["bleu_ja"].num_segments == 2
    values = {"output": str(tmp_path / "out"), "data": [str(tmp_path / "set.jsonl")], "limit": 1}
    score(Parrot({}), ScoreSettings.of({**values, "silence_check": False}))
    assert compare(tmp_path / "out", tmp_path / "out")["bleu_ja"].num_segments == 1
    rows = [row.model_copy(update={"id": f"new-{row.id}"}) for row in Manifest(tmp_path / "set.jsonl")]
    write_manifest(tmp_path / "set.jsonl", rows)
    with pytest.raises(EvaluationError, match="have changed since"):
        compare(tmp_path / "out", tmp_path / "out")
    with pytest.raises(EvaluationError, match="holds no hypotheses"):
        compare(tmp_path / "missing", tmp_path / "gone")


def test_what_cannot_be_scored_is_refused_before_anything_is_decoded(tmp_path, monkeypatch):
    rows = [("st", "良い", "良い"), ("asr", "Well.", "well")]
    with monkeypatch.context() as patch:
        patch.setattr(Parrot, "answer", lambda *_: pytest.fail("decoded"))
        patch.setattr("aista.text.prompts.LANGUAGES", {"en": LANGUAGES["en"]})
        with pytest.raises(ConfigError, match="Unknown language 'ja'"):
            run(tmp_path / "unknown", rows)
    with monkeypatch.context() as patch:
        patch.setattr(Parrot, "answer", lambda *_: pytest.fail("decoded"))
        patch.setattr(bleu_module, "_get_tokenizer", lambda name: {}[name])
        with pytest.raises(EvaluationError, match="ja-mecab"):
            run(tmp_path / "tokenizer", rows)


@pytest.mark.parametrize("zero_shot", [True, False])
def test_rows_beyond_what_a_system_was_trained_for_are_told(tmp_path, monkeypatch, zero_shot):
    monkeypatch.setattr(Parrot, "directions", ("en-ja",))
    monkeypatch.setattr(Parrot, "zero_shot", zero_shot)
    found = run(tmp_path, [("st", "良い", "良い"), ("asr", "Well.", "well"), ("asr", "Good.", "good")])
    assert ("wer_en" in found["scores"]) is zero_shot
    [told] = found["warnings"]
    assert ("asked all the same" if zero_shot else "left out") in told and "2 rows" in told


@pytest.mark.parametrize("blank", [" ", "\u200b"])
def test_rows_without_a_transcript_are_told_where_text_is_translated(tmp_path, blank):
    rows = [("st", "良い", "良い"), ("st", "良い", "良い")]
    found = run(tmp_path, rows, measures=["speech", "text_translation"], source=blank)
    assert set(found["scores"]) == {"bleu_ja", "chrf_ja"}
    assert found["warnings"] == ["set: 2 rows have no transcript: text_translation leaves them out"]


@pytest.mark.parametrize(("answer", "told"), [("這是一個夢。", 1), ("这是一个梦。", 0), ("好。", 0)])
def test_an_answer_in_other_chinese_characters_than_its_reference_is_told(tmp_path, answer, told):
    found = run(tmp_path, [("st", "这是一个梦。", answer), ("st", "我们走。", "我们走。")], language="zh")
    assert sum("traditional" in text and "1 of 2 rows (r0)" in text for text in found["warnings"]) == told


def test_warnings_name_the_score_and_count_the_rows_that_they_are_of():
    rows = [Hypothesis(f"ja{i}", "st", "ja", "良い", "良い", None) for i in range(8)]
    rows += [Hypothesis("cut", "asr", "zh", "好", "好", None, finished=False)]
    rows += [Hypothesis("old", "st", "zh", "這是一個夢。", "这是一个梦。", None)]
    cut, traditional = part_warnings([], rows, 5)
    assert "1 of 1 rows (cut) (cer_zh)" in cut and "1 of 2 rows (old)" in traditional


OBEYED = {
    "你叫什么名字？": ("我是一个语言模型。", "What is your name?", "您的名字是什么？", "你叫什么？"),
    "法国的首都是哪里？": ("巴黎。", "巴黎", "法国首都在哪里？", "哪里是法国的首都？"),
    "给我讲一个笑话。": (
        "从前有一位老人，他有三个儿子，大儿子很懒，二儿子很笨。",
        "No.",
        "请给我讲个笑话。",
        "讲一个笑话给我。",
    ),
}


def test_answers_that_obey_instead_of_translating_are_counted(tmp_path):
    rows = [("st", reference, answers[0]) for reference, answers in OBEYED.items()]
    rows += [("st", reference, answers[2]) for reference, answers in OBEYED.items()]
    rows += [("st", "你叫什么名字？", ""), ("asr", "What is your name?", "I am a model, and glad to help.")]
    found = run(tmp_path, rows, language="zh", measures=["speech", "obedience"])
    assert found["scores"]["obedience"] == 50 and found["num_scored"]["obedience"] == 8
    assert found["by_set"]["set"]["scores"]["obedience"] == 50
    assert any("4 of 8 answers obey" in text and "r0, r1, r2" in text for text in found["warnings"])
    plain = run(tmp_path, rows, "plain", language="zh")
    assert "obedience" not in plain["scores"]


@pytest.mark.parametrize("reference", OBEYED)
def test_a_translation_does_not_obey_and_an_answer_does(reference):
    one, other, *translations = OBEYED[reference]
    assert obeys(one, reference, "zh") and obeys(other, reference, "zh") and not obeys(" ", reference, "zh")
    assert not any(obeys(text, reference, "zh") for text in [reference, *translations])


@pytest.mark.parametrize("answer", ["Opened", "好的", "当然可以我这就去做请您稍等一会儿"])
def test_one_sign_is_enough_another_script_or_too_short_or_too_long(answer):
    assert obeys(answer, "请打开那扇门。", "zh")
    assert not obeys("关上这些窗户吧。", "请打开那扇门。", "zh")  # wrong, and still a translation
