"""The corpora of the experiments: no sentence stands in two sets, and every manifest is what it is called."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from aista.data.feature_store import FeatureStore, FeatureStoreWriter
from aista.data.manifest import Manifest
from tools.base_corpus import LONGEST_SECONDS, TATOEBA, draw, join, letters, more, recognition, write

SIZES = {"test": 4, "dev": 2, "pairs": 5, "text": 6, "train": 30}
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def found() -> dict[str, dict[str, tuple[str, str]]]:
    """Sentences with translations; every second one has another language's too, in other letters."""
    sentences = [f"I saw {a} {b} {c}." for a in WORDS for b in WORDS[:5] for c in WORDS[:4]]
    return {
        code: {(s.upper() if i % 2 else s): (f"{code}: {s}", "tatoeba") for i, s in enumerate(sentences)}
        for code in (*TATOEBA, "zh")
    }


def test_no_sentence_stands_in_two_sets() -> None:
    known = ["i saw ONE one one"]
    spoken, read = draw(found(), SIZES, known)
    texts = [letters(row["text"]) for row in spoken] + [letters(row.text or "") for row in read]
    assert len(texts) == len(set(texts))
    assert letters(known[0]) not in texts
    counted = Counter((row["set"], row["tgt_lang"]) for row in spoken)
    assert counted == {
        **{(name, code): SIZES[name] for name in ("test", "dev") for code in (*TATOEBA, "zh")},
        **{("train", code): 30 for code in TATOEBA},
        ("pairs", "zh"): 5,
    }
    assert Counter(row.tgt_lang for row in read) == dict.fromkeys((*TATOEBA, "zh"), 6)
    assert draw(found(), SIZES, known) == (spoken, read)
    assert len({row["id"] for row in spoken}) == len(spoken)


@pytest.fixture
def corpus(tmp_path: Path) -> dict[str, Manifest]:
    """What is written where every clip has 2 s, but for the first of German's training, which is too long."""
    spoken, _ = draw(found(), SIZES)
    seconds = {row["id"]: 2.0 for row in spoken}
    seconds["train-de-1"] = LONGEST_SECONDS + 0.1
    (tmp_path / "say.jsonl").write_text("".join(json.dumps(row) + "\n" for row in spoken))
    lines = [json.dumps({"id": name, "duration": value}) + "\n" for name, value in seconds.items()]
    (tmp_path / "said.0.jsonl").write_text("".join(lines[::2]))
    (tmp_path / "said.1.jsonl").write_text("".join(lines[1::2]))
    written = write(tmp_path, test=3, dev=2)
    manifests = {name: Manifest(tmp_path / f"{name}.jsonl") for name in written}
    assert {name: len(rows) for name, rows in manifests.items()} == written
    return manifests


def test_what_is_too_long_or_too_many_is_left_out(corpus: dict[str, Manifest]) -> None:
    assert len(corpus["train.asr"]) == 3 * 30 - 1
    assert "train-de-1" not in {row.id for row in corpus["train.asr"]}
    assert Counter(row.tgt_lang for row in corpus["fresh"]) == dict.fromkeys((*TATOEBA, "zh"), 3)


def test_speech_comes_with_its_transcript_alone(corpus: dict[str, Manifest]) -> None:
    rows = [*corpus["train.asr"], *corpus["dev.asr"], *corpus["fresh.asr"]]
    assert {(row.task, row.tgt_lang, row.translation) for row in rows} == {("asr", "en", None)}
    asked = corpus["dev"][0].model_copy(update={"prompt": "Translate into German."})
    assert recognition(asked).prompt is None


def test_the_control_has_other_clips_transcripts(corpus: dict[str, Manifest]) -> None:
    of = {row.id: row for row in corpus["train.st"]}
    for row in corpus["train.shuffled"]:
        assert (row.translation, row.audio) == (of[row.id].text, of[row.id].audio)
        assert row.text != of[row.id].text
    assert sorted(row.text or "" for row in corpus["train.shuffled"]) == sorted(
        row.text or "" for row in corpus["train.st"]
    )


def test_pairs_are_of_all_languages_alike_and_of_no_test(corpus: dict[str, Manifest]) -> None:
    rows = list(corpus["pairs50"])
    assert max(Counter(row.tgt_lang for row in rows).values()) <= 13
    train = {row.id for row in corpus["train.st"]}
    assert all(row.tgt_lang == "zh" or row.id in train for row in rows)
    assert {row.id for row in rows}.isdisjoint(row.id for row in [*corpus["fresh"], *corpus["dev"]])
    assert {row.id for row in corpus["pairs50"]} <= {row.id for row in corpus["pairs200"]}


def test_further_test_sentences_are_of_no_set_and_leave_the_sets_as_they_are(
    tmp_path: Path, corpus: dict[str, Manifest]
) -> None:
    before = {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in corpus}
    spoken, read = draw(found(), SIZES)
    (tmp_path / "text.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in read))
    more(found(), tmp_path, test=3)
    rows = [json.loads(line) for line in (tmp_path / "say.jsonl").read_text().split("\n") if line]
    assert rows[: len(spoken)] == spoken
    added = rows[len(spoken) :]
    taken = {letters(text) for text in [*(row["text"] for row in spoken), *(row.text or "" for row in read)]}
    assert len({letters(row["text"]) for row in added} - taken) == len(added) == 3 * 4
    assert len({row["id"] for row in rows}) == len(rows)
    with (tmp_path / "said.0.jsonl").open("a") as lengths:
        lengths.writelines(json.dumps({"id": row["id"], "duration": 2.0}) + "\n" for row in added)
    written = write(tmp_path, test=3, dev=2)
    assert written["more"] == 3 * 3 + SIZES["pairs"]
    assert {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in corpus} == before
    heard = {
        row.text for name in ("train.asr", "dev", "fresh") for row in Manifest(tmp_path / f"{name}.jsonl")
    }
    assert heard.isdisjoint(row.text for row in Manifest(tmp_path / "more.jsonl"))


def test_stores_of_shares_are_joined(tmp_path: Path) -> None:
    stored = {f"k{i}": np.full((i + 1, 3), i, np.float16) for i in range(5)}
    for share in range(2):
        with FeatureStoreWriter(tmp_path / f"all.{share}", 3, fingerprint="f") as part:
            for key in list(stored)[share::2]:
                part.add(key, stored[key])
    join(tmp_path / "all", 2)
    whole = FeatureStore(tmp_path / "all", fingerprint="f")
    assert whole.keys() == stored.keys()
    for key, features in stored.items():
        np.testing.assert_array_equal(whole[key], features)
    assert [path.name for path in tmp_path.iterdir()] == ["all"]
