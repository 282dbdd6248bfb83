"""Whisper writes down what is said, a language model translates what is written.

The language model is addressed as the speech LLM addresses it, with the transcript in the speech slot, and
has no adapters: what a trained speech LLM gains over this, it gains from hearing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperForConditionalGeneration

from aista.audio.rates import SAMPLE_RATE_HZ
from aista.baselines.base import Baseline, identity
from aista.config import Dtype
from aista.errors import ConfigError
from aista.inference.translating import Answer, Request
from aista.inference.translator import read_answer
from aista.model import loading
from aista.model.backbones import family
from aista.model.bases import (
    load_backbone,
    load_feature_extractor,
    load_tokenizer,
    load_whole,
    locate,
    read_config,
    speech_config,
)
from aista.text.prompts import (
    broken_up,
    control_tokens,
    end_token_id,
    instruction,
    language,
    plain_ids,
    render,
    suitable_template,
    text_ids,
)

CHAT = "chat"
_MOST_PROMPT_TOKENS = 4  # start, language, task, no timestamps
_CHAT_WORDING = "Translate this {source} text into {target}. Answer with the translation only.\n\n{text}"


@dataclass(frozen=True)
class Options:
    """What a cascade is made of.

    Attributes:
        asr: A Whisper with its decoder: folder, hub id, or ``aista:whisper``.
        llm: A causal language model: folder, hub id, or ``aista:language_model``.
        asr_revision, llm_revision: Commits of hub ids.
        template: How the model is addressed: a prompt template of ours, or ``chat`` for the chat form that
            its own tokenizer brings (an instruct model). By default the template that a model of ours was
            trained with, else its family's.
        asr_beams: Beams of the recognition.
        dtype: Of the language model; by default ``bfloat16`` on a GPU, else ``float32``.
    """

    asr: str = "openai/whisper-large-v2"
    llm: str = "Qwen/Qwen2-7B"
    asr_revision: str | None = None
    llm_revision: str | None = None
    template: str | None = None
    asr_beams: int = 1
    dtype: Dtype | None = None


class System(Baseline):
    """Whisper, then a language model.

    Args:
        options: Its parts.
        generation, device: As for ``Baseline``.

    Raises:
        CheckpointError: A part is nowhere, or of another kind.
        ConfigError: There is no such dtype, or the language model brings no chat form.
    """

    options = Options
    reads_text = True

    def __init__(
        self, options: Options, *, generation: dict[str, Any] | None = None, device: str | None = None
    ) -> None:
        super().__init__(generation=generation, device=device)
        kind = loading.Options(options.dtype).to_dict()["dtype"]
        asr, llm, template = options.asr, options.llm, options.template
        hearing = locate(asr, revision=options.asr_revision)
        writing = locate(llm, revision=options.llm_revision)
        self.whisper = _whisper(hearing).to(self.device)
        self.extractor = load_feature_extractor(hearing)
        self.asr_tokenizer = load_tokenizer(hearing)
        self.asr_beams = int(options.asr_beams)
        self.llm: Any = load_backbone(writing, kind).to(self.device).eval()
        self.tokenizer = load_tokenizer(writing)
        if template != CHAT:
            template = suitable_template(self.tokenizer, template, _template_of(writing))
        self.template = template
        if self.template == CHAT and not getattr(self.tokenizer, "chat_template", None):
            raise ConfigError("This language model brings no chat form.", got=llm, advice="Set template.")
        self.name = f"cascade of {Path(asr).name} and {Path(llm).name}"
        self.card = {
            "system": "cascade",
            "asr": identity(asr, options.asr_revision),
            "llm": identity(llm, options.llm_revision),
            "template": self.template,
            "asr_beams": self.asr_beams,
            "prompt": _CHAT_WORDING if self.template == CHAT else instruction("st", "zh"),
        }

    @property
    def longest_seconds(self) -> float:
        """What Whisper hears at once: 30 s at the real size."""
        return self.extractor.n_samples / SAMPLE_RATE_HZ

    def answer(self, pieces: Sequence[np.ndarray], request: Request) -> list[Answer]:
        """Write down, and for ``st`` translate, pieces of sound."""
        heard = self.hear(pieces, request.source)
        if request.task == "asr":
            return heard
        answers = self.answer_texts([row.text for row in heard], request)
        return [replace(a, finished=a.finished and h.finished) for a, h in zip(answers, heard, strict=True)]

    @torch.no_grad()
    def hear(self, pieces: Sequence[np.ndarray], source: str) -> list[Answer]:
        """Return the transcripts of pieces of sound; unfinished where Whisper had no room for more tokens."""
        mel = self.extractor(
            list(pieces), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt", return_attention_mask=True
        )
        spoken = {}
        if getattr(self.whisper.generation_config, "lang_to_id", None):  # a multilingual Whisper
            spoken = {"language": language(source).name.lower(), "task": "transcribe"}
        ids = self.whisper.generate(
            mel["input_features"].to(self.device),
            attention_mask=mel["attention_mask"].to(self.device),
            num_beams=self.asr_beams,
            do_sample=False,
            **spoken,
        )
        # generate takes prompt, end and padding off, so that the number of tokens is all there is to go by.
        padding = {self.asr_tokenizer.pad_token_id, self.asr_tokenizer.eos_token_id}
        room = self.whisper.generation_config.max_length - _MOST_PROMPT_TOKENS
        lines = self.asr_tokenizer.batch_decode(ids, skip_special_tokens=True)
        lengths = [sum(token not in padding for token in row) for row in ids.tolist()]
        return [Answer(line.strip(), length < room) for line, length in zip(lines, lengths, strict=True)]

    @torch.no_grad()
    def answer_texts(self, texts: Sequence[str], request: Request) -> list[Answer]:
        """Translate texts; nothing is asked about an empty one."""
        asked = [index for index, text in enumerate(texts) if text]
        answers = [Answer("") for _ in texts]
        size = self.generation.batch_size
        for start in range(0, len(asked), size):
            batch = asked[start : start + size]
            found = self._translated([texts[index] for index in batch], request)
            for index, result in zip(batch, found, strict=True):
                answers[index] = result
        return answers

    def _translated(self, texts: Sequence[str], request: Request) -> list[Answer]:
        rows, end = self._prompts(texts, request)
        tensors = [torch.tensor(row) for row in rows]
        ids = pad_sequence(tensors, True, end, padding_side="left")
        mask = pad_sequence([torch.ones_like(row) for row in tensors], True, padding_side="left")
        new = self.llm.generate(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
            **self.generation.model_dump(exclude={"batch_size"}),
        )[:, ids.shape[1] :]
        most = self.generation.max_new_tokens
        return [read_answer(row, self.tokenizer, end, most) for row in new.tolist()]

    def _prompts(self, texts: Sequence[str], request: Request) -> tuple[list[list[int]], int]:
        """Return the token ids of every prompt, and the token that ends an answer."""
        if self.template == CHAT:
            names = {"source": language(request.source).name, "target": language(request.target).name}
            control = control_tokens(self.tokenizer)  # which a transcript may spell, and must not give
            contents = [_CHAT_WORDING.format(text=broken_up(text, control), **names) for text in texts]
            messages = [[{"role": "user", "content": content}] for content in contents]
            written = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            return [text_ids(self.tokenizer, row) for row in written], int(self.tokenizer.eos_token_id)
        prompt = render(self.template, instruction("st", request.target))
        end = end_token_id(self.tokenizer, self.template)
        bos = [self.tokenizer.bos_token_id] if prompt.bos and self.tokenizer.bos_token_id is not None else []
        before, after = text_ids(self.tokenizer, prompt.prefix), text_ids(self.tokenizer, prompt.suffix)
        return [bos + before + plain_ids(self.tokenizer, text) + after for text in texts], end


def _whisper(folder: Path) -> Any:
    """Load a Whisper with its decoder, in float32.

    Raises:
        CheckpointError: It is no Whisper, or it has no decoder.
    """
    speech_config(folder)
    return load_whole(
        WhisperForConditionalGeneration, folder, "Whisper with decoder", dtype=torch.float32
    ).eval()


def _template_of(folder: Path) -> str:
    """Return the template that a stand-in of ours was trained with (its card says), else the family's."""
    card = folder / "card.json"
    if card.is_file() and (recipe := json.loads(card.read_text(encoding="utf-8")).get("recipe")):
        return str(recipe.get("template", "chatml"))
    return family(read_config(folder).get_text_config().model_type).template
