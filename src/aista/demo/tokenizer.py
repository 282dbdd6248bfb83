"""The tokenizer of the stand-in language model: byte-level BPE trained on the demo's own text.

Chinese and Japanese characters are isolated before the merges: otherwise whole phrases of the small
grammar become single tokens, and translating would be looking up. English words end up as one token
each.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from aista.text import prompts

VOCABULARY_SIZE = 1_800
PAD, END, TURN_START, TURN_END = "<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"
AUDIO_START, AUDIO_END = "<|audio_bos|>", "<|audio_eos|>"
SPECIAL_TOKENS = [PAD, END, TURN_START, TURN_END, AUDIO_START, AUDIO_END]
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
    texts: Iterable[str], *, vocabulary_size: int = VOCABULARY_SIZE, with_instructions: bool = True
) -> PreTrainedTokenizerFast:
    """Train a tokenizer, by default with the instructions of ``aista.text.prompts`` in its text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_CJK), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    template = prompts.TEMPLATES["chatml"].text.format(speech="", instruction="")
    for special in SPECIAL_TOKENS:
        template = template.replace(special, " ")
    prompt_texts = [*instruction_texts(), template] * 300 if with_instructions else []
    tokenizer.train_from_iterator([*texts, *prompt_texts], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=TURN_END,
        additional_special_tokens=[END, TURN_START, AUDIO_START, AUDIO_END],
        clean_up_tokenization_spaces=False,
    )


def save(tokenizer: PreTrainedTokenizerFast, folder: Path | str) -> None:
    """Write a folder that ``AutoTokenizer`` loads."""
    tokenizer.save_pretrained(str(folder))
