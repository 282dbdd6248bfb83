"""The tokenizer of the stand-in language model: byte-level BPE trained on the demo's own text.

Chinese and Japanese characters are isolated before the merges: otherwise whole phrases of the small
grammar become single tokens, and translating would be looking up. English words end up as one token
each.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from aista.text import prompts

VOCABULARY_SIZE = 1_800
PAD, END, TURN_START, TURN_END = "<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"
AUDIO_START, AUDIO_END = "<|audio_bos|>", "<|audio_eos|>"
BOS, EOS = "<s>", "</s>"
# The chat form has tokens of its own; Vicuna's form is plain text between <s> and </s>.
SPECIAL_TOKENS = {
    "chatml": [PAD, END, TURN_START, TURN_END, AUDIO_START, AUDIO_END],
    "vicuna": [PAD, BOS, EOS],
}
# Kana, CJK punctuation, ideographs, full-width forms.
_CJK = r"[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef]"


def instruction_texts() -> list[str]:
    """Every wording of every task, for every language of the demo."""
    return sorted(
        {
            wording
            for task, targets in (("asr", ("en",)), ("aac", (None,)), ("st", ("zh", "ja")))
            for target in targets
            for wording in prompts.instructions(task, target)
        }
    )


def train(
    texts: Iterable[str],
    *,
    vocabulary_size: int = VOCABULARY_SIZE,
    with_instructions: bool = True,
    template: str = "chatml",
) -> PreTrainedTokenizerFast:
    """Train a tokenizer, by default with the instructions of ``aista.text.prompts`` in its text.

    Args:
        texts: What it will have to write.
        template: Prompt template whose words and special tokens it has: a key of ``SPECIAL_TOKENS``.
    """
    specials = SPECIAL_TOKENS[template]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_CJK), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    form = prompts.TEMPLATES[template].text.format(speech="", instruction="")
    for special in specials:
        form = form.replace(special, " ")
    prompt_texts = [*instruction_texts(), form] * 300 if with_instructions else []
    tokenizer.train_from_iterator([*texts, *prompt_texts], trainer)
    names: dict[str, Any] = (
        {"eos_token": TURN_END} if template == "chatml" else {"bos_token": BOS, "eos_token": EOS}
    )
    named = {PAD, *names.values()}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        additional_special_tokens=[token for token in specials if token not in named],
        clean_up_tokenization_spaces=False,
        **names,
    )


def save(tokenizer: PreTrainedTokenizerFast, folder: Path | str) -> None:
    """Write a folder that ``AutoTokenizer`` loads."""
    tokenizer.save_pretrained(str(folder))
