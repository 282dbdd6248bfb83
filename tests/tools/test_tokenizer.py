"""The tokenizer of the stand-in language model."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from aista.demo import grammar
from aista.text import prompts
from tools.standins import tokenizer


@pytest.fixture(scope="module")
def sentences() -> list[grammar.Sentence]:
    return grammar.sentences(1_500, seed=1, split="any")


@pytest.fixture(scope="module")
def tokens(
    sentences: list[grammar.Sentence], tmp_path_factory: pytest.TempPathFactory
) -> PreTrainedTokenizerBase:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(tokenizer.train(text for s in sentences for text in (s.en, s.zh, s.ja)), folder)
    return AutoTokenizer.from_pretrained(folder)


def ids(tokens: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokens(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "text", ["Ünïcode 😀 \t text", "한국어", "a  b", "…—“x”", "她坐船去了东京。", "彼女は、船で"]
)
def test_round_trip(tokens: PreTrainedTokenizerBase, text: str) -> None:
    assert tokens.decode(ids(tokens, text)) == text


def test_words_and_characters_are_tokens(
    tokens: PreTrainedTokenizerBase, sentences: list[grammar.Sentence]
) -> None:
    for sentence in sentences[:200]:
        assert len(ids(tokens, sentence.en)) <= 1.3 * (sentence.num_words + 1)
        for text in (sentence.zh, sentence.ja):
            pieces = [tokens.decode([piece]) for piece in ids(tokens, text)]
            assert all(len(piece) == 1 for piece in pieces), pieces
            assert "".join(pieces) == text


def test_special_tokens_are_single(tokens: PreTrainedTokenizerBase) -> None:
    for special in tokenizer.SPECIAL_TOKENS["chatml"]:
        assert len(ids(tokens, special)) == 1
    prompt = prompts.render("chatml", prompts.instruction("st", "zh"))
    assert ids(tokens, prompt.end) == [tokens.eos_token_id]
    assert len(ids(tokens, prompt.prefix)) <= 10 and len(ids(tokens, prompt.suffix)) <= 18


def test_instructions_cover_every_wording() -> None:
    texts = tokenizer.instruction_texts()
    for task, target in (("asr", "en"), ("aac", None), ("st", "zh"), ("st", "ja")):
        assert set(prompts.instructions(task, target)) <= set(texts)
