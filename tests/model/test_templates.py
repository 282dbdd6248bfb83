"""A template and the backbone it is used with: tags are tokens, or the template is not used."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from aista.errors import ConfigError
from aista.model.loading import configure
from aista.text.prompts import (
    TEMPLATES,
    broken_tags,
    broken_up,
    render,
    suitable_template,
    template,
    text_ids,
)
from tests.tiny import language_model, whisper

CHAT = ["<|im_start|>", "<|im_end|>"]
AUDIO = ["<|audio_bos|>", "<|audio_eos|>"]


def tokenizer_with(tags: list[str]) -> PreTrainedTokenizerFast:
    """The byte tokenizer with these tags and no others."""
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=letters, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")
    made.add_special_tokens({"additional_special_tokens": tags})
    return made


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tags", [[], CHAT, AUDIO, CHAT + AUDIO])
def test_a_template_fits_where_each_of_its_tags_is_a_token(name: str, tags: list[str]) -> None:
    made = tokenizer_with(tags)
    fits = set(template(name).tags) <= set(tags)
    assert fits == (not broken_tags(made, name))
    if fits:
        assert suitable_template(made, name, "plain") == name
        return
    with pytest.raises(ConfigError, match="no tokens of this backbone"):
        suitable_template(made, name, "plain")


@pytest.mark.parametrize(
    ("tags", "by_family", "wanted"),
    [
        (CHAT + AUDIO, "qwen_flat", "qwen_flat"),
        (CHAT, "qwen_flat", "qwen_chat"),
        (CHAT, "chatml", "qwen_chat"),
        ([], "chatml", "plain"),
        ([], "vicuna", "vicuna"),
    ],
)
def test_without_a_choice_one_is_found_that_fits(tags: list[str], by_family: str, wanted: str) -> None:
    assert suitable_template(tokenizer_with(tags), None, by_family) == wanted


def test_a_model_is_not_configured_with_a_template_in_pieces(tmp_path: Path) -> None:
    lm, ears = language_model(tmp_path / "lm"), str(whisper(tmp_path / "whisper"))
    tokenizer_with(CHAT).save_pretrained(lm)
    with pytest.raises(ConfigError, match="qwen_chat"):
        configure(ears, str(lm), template="chatml")
    assert configure(ears, str(lm)).template == "qwen_chat"


@given(st.lists(st.sampled_from([*CHAT, *AUDIO, "<s>", "</s>", "<", " ", "好"]), max_size=8))
def test_no_text_from_outside_holds_a_control_token(parts: list[str]) -> None:
    text, tokens = "".join(parts), [*CHAT, *AUDIO, "<s>", "</s>"]
    broken = broken_up(text, tokens)
    assert not any(token in broken for token in tokens)
    assert "".join(broken.split()) == "".join(text.split())
    assert broken == text or any(token in text for token in tokens)


def test_the_chat_form_of_qwen_puts_system_and_user_before_the_speech() -> None:
    made = tokenizer_with(CHAT)
    prompt = render("qwen_chat", "Translate.")
    assert not prompt.bos
    assert made.decode(text_ids(made, prompt.prefix)) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    )
    assert prompt.suffix == "\nTranslate.<|im_end|>\n<|im_start|>assistant\n"
    assert len(text_ids(made, prompt.end)) == 1
