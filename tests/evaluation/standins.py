"""A model and a processor with the interface of ours that answer in a way a test can compute by hand.

The answer to audio counts its windows of 17 frames (and tells silence), the answer to text is the text.
Nothing here is trained: what is tested is the road around the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

WINDOW = 5440
END, SOUND = 1, 2


class Tokenizer:
    """One token per character; 0 pads, 1 ends, 2 stands for the sound."""

    pad_token_id, eos_token_id = 0, END

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(token) for token in tokens if token > END or not skip_special_tokens)


class Processor:
    """Turns questions into the texts that the model below will answer."""

    tokenizer = Tokenizer()

    def apply_chat_template(self, messages, add_generation_prompt, tokenize) -> str:
        assert add_generation_prompt and not tokenize
        (wording,) = [part["text"] for part in messages[0]["content"] if part["type"] == "text"]
        tongue = "中" if "Chinese" in wording else "日" if "Japanese" in wording else "e"
        return tongue + chr(SOUND)

    def __call__(self, *, text, audio=None, sampling_rate=None, **_: Any):
        ids = torch.tensor([[ord(letter) for letter in line] for line in text])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if audio is None:
            return inputs
        assert sampling_rate == 16_000
        answers = [self.answer_of(sound) for sound in audio]
        return {**inputs, "answers": [[ord(c) for c in t[0] + a] for t, a in zip(text, answers, strict=True)]}

    @staticmethod
    def answer_of(sound: np.ndarray) -> str:
        if sound.ndim == 2:
            return f"f{len(sound)}"
        assert sound.dtype == np.float32 and len(sound)
        return f"w{-(-len(sound) // WINDOW)}" if sound.any() else "hush"


@dataclass
class Model:
    """Answers with what the processor prepared, padded to the longest of the batch."""

    directions: tuple[str, ...] = ("en-zh", "en-ja", "en-en")
    max_windows: int = 13
    batches: list[int] = field(default_factory=list)
    device: str = "cpu"

    @property
    def config(self) -> SimpleNamespace:
        return SimpleNamespace(
            directions=self.directions,
            max_windows=self.max_windows,
            frames_per_window=17,
            end_token_id=END,
            max_samples=self.max_windows * 17 * 320,
            audio_token_id=SOUND,
            model_type="aista",
        )

    def get_decoder(self) -> SimpleNamespace:
        return SimpleNamespace(layers=[])

    def generate(self, input_ids, attention_mask, answers=None, *, max_new_tokens, num_beams, **_: Any):
        assert attention_mask[:, -1].all()
        if answers is None:  # a text stands in the slot
            answers = [ids[real].tolist() for ids, real in zip(input_ids, attention_mask.bool(), strict=True)]
        self.batches.append(len(answers))
        rows = [[*row, END][:max_new_tokens] for row in answers]
        width = max(map(len, rows))
        return torch.cat([input_ids, torch.tensor([row + [0] * (width - len(row)) for row in rows])], dim=1)


def tone(seconds: float, *, loudness: float = 0.3) -> np.ndarray:
    """A tone of 220 Hz at 16 kHz that comes and goes three times a second, as syllables do."""
    time = np.arange(int(seconds * 16_000)) / 16_000
    swell = np.abs(np.sin(3 * np.pi * time + 1))
    return (loudness * swell * np.sin(2 * np.pi * 220 * time)).astype(np.float32)
