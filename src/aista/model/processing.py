"""From audio and text to the model's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, WhisperFeatureExtractor
from transformers.processing_utils import ProcessorMixin

from aista.audio.fbank import beats_fbank, num_fbank_frames
from aista.audio.rates import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from aista.errors import ModelInputError
from aista.model import bases, loading
from aista.model.configuration import AistaConfig
from aista.model.inputs import SpeechInputs
from aista.text.prompts import render, template, text_ids

__all__ = ["AistaProcessor"]


class AistaProcessor(ProcessorMixin):
    """Everything between a user's audio and text and the tensors the model takes.

    It follows the model's configuration, so the two cannot disagree about windows, templates or tokens.

    Attributes:
        audio_token: Stands for the speech in the text of a prompt; it is no token of the tokenizer.
    """

    audio_token = "<|audio|>"

    def __init__(
        self, feature_extractor: WhisperFeatureExtractor, tokenizer: Any, config: AistaConfig
    ) -> None:
        super().__init__(feature_extractor, tokenizer)
        self.config = config

    # ---- making and keeping

    @classmethod
    def from_config(cls, config: AistaConfig, *, beside: Path | None = None) -> AistaProcessor:
        """Make the processor of a model from its configuration; its bases must be at hand."""
        paths = loading.locate_bases(config, beside)
        extractor = bases.load_feature_extractor(paths["speech_encoder"])
        return cls(extractor, bases.load_tokenizer(paths["backbone"]), config)

    @classmethod
    def from_bases(
        cls, speech_encoder: str, backbone: str, audio_encoder: str | None = None, **settings: Any
    ) -> AistaProcessor:
        """Make the processor for a model on these bases; arguments as for ``loading.configure``."""
        return cls.from_config(loading.configure(speech_encoder, backbone, audio_encoder, **settings))

    @classmethod
    def from_pretrained(cls, folder: str | Path, **_: Any) -> AistaProcessor:  # type: ignore[override]
        """Load the processor of a saved model: its own files, or else those of its bases.

        Raises:
            CheckpointError: The folder holds no saved model.
        """
        folder = bases.locate(str(folder))
        config = loading.read_checkpoint_config(folder)
        if not (folder / "tokenizer_config.json").is_file():
            return cls.from_config(config, beside=folder)
        extractor = WhisperFeatureExtractor.from_pretrained(folder)
        return cls(extractor, bases.load_tokenizer(folder), config)

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:  # type: ignore[override]
        """Save tokenizer and feature extractor beside a model, and the configuration if none is there."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        self.feature_extractor.save_pretrained(folder)
        if not (folder / loading.CONFIG).is_file():
            self.config.save_pretrained(folder)

    # ---- using

    def __call__(
        self,
        text: Sequence[str] | str,
        audio: Sequence[np.ndarray] | None = None,
        *,
        padding_side: str = "left",
        sampling_rate: int = SAMPLE_RATE_HZ,
        padding: bool = True,
        return_tensors: str = "pt",
        text_kwargs: dict[str, Any] | None = None,
    ) -> BatchFeature:
        """Prepare prompts and sound: what ``forward`` and ``generate`` take.

        Args:
            text: B prompts, as ``apply_chat_template`` returns them: one ``audio_token`` in each. It is
                expanded to as many placeholders as there are speech tokens. What stands before it and after
                it is tokenised separately.
            audio: B mono recordings, float arrays (n,) at 16 kHz with full scale 1.0; or B cached encoder
                outputs (frames, D). None: placeholders stay single.
            padding_side: ``left``, to generate, or ``right``.
            sampling_rate: Of ``audio``, in Hz; anything but 16,000 is refused rather than resampled unseen.
            padding, return_tensors: Padded torch tensors are the only kind there is.
            text_kwargs: ``padding`` and ``padding_side`` may also stand here, as transformers has it.

        Returns:
            ``input_ids`` and ``attention_mask`` (B, T), and the fields of ``SpeechInputs``.

        Raises:
            ModelInputError: Prompts and recordings differ in number, a prompt has not exactly one
                placeholder, or audio is empty, not finite, too long, of another rate or of another kind.
        """
        prompts, given = [text] if isinstance(text, str) else list(text), dict(text_kwargs or {})
        padding, padding_side = given.pop("padding", padding), given.pop("padding_side", padding_side)
        if not padding or return_tensors != "pt" or given:
            raise ModelInputError(
                "This processor gives padded torch tensors only.", got=(padding, return_tensors, given)
            )
        speech = None if audio is None else self.audio_inputs(audio, sampling_rate)
        counts = [1] * len(prompts)
        if speech is not None:
            counts = [self.config.tokens_for(length) for length in speech.num_samples or ()]
        if len(prompts) != len(counts):
            raise ModelInputError(f"There are {len(prompts)} prompts for {len(counts)} recordings.")
        rows = [
            torch.tensor(self._ids(prompt, count, speech is not None))
            for prompt, count in zip(prompts, counts, strict=True)
        ]
        real = [torch.ones_like(row) for row in rows]
        batch = {
            "input_ids": pad_sequence(rows, True, self.config.pad_token_id, padding_side),
            "attention_mask": pad_sequence(real, True, 0, padding_side),
        }
        return BatchFeature(batch | ({} if speech is None else speech.to_dict()))

    def _ids(self, prompt: str, count: int, has_speech: bool) -> list[int]:
        """Tokenise one prompt, ``count`` placeholders where its ``audio_token`` stands."""
        pieces = prompt.split(self.audio_token)
        if len(pieces) > 2 or (has_speech and len(pieces) < 2):
            raise ModelInputError(
                "A prompt must hold the speech exactly once.",
                got=f"{len(pieces) - 1} times {self.audio_token} in {prompt!r}",
                advice="processor.apply_chat_template puts it there.",
            )
        bos = template(self.config.template).bos and self.tokenizer.bos_token_id is not None
        ids = [self.tokenizer.bos_token_id] if bos else []
        ids += text_ids(self.tokenizer, pieces[0])
        if len(pieces) == 2:
            ids += [self.config.audio_token_id] * count + text_ids(self.tokenizer, pieces[1])
        return ids

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Sequence[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tokenize: bool = False,
    ) -> str:
        """Write down one request in the template of this model.

        Args:
            conversation: One message of the user: ``{"role": "user", "content": [{"type": "audio"}, {"type":
                "text", "text": instruction}]}``.
            add_generation_prompt, tokenize: True and False are the only values there are.

        Returns:
            The prompt, ``audio_token`` in the speech's place.

        Raises:
            ModelInputError: It is not one request about one recording.
            ConfigError: The instruction holds the speech slot inside its text.
        """
        parts = conversation[0]["content"] if len(conversation) == 1 else ()
        lines = [part["text"] for part in parts if isinstance(part, dict) and part["type"] == "text"]
        if len(parts) != 2 or len(lines) != 1 or not add_generation_prompt or tokenize:
            raise ModelInputError(
                "This model takes one recording and one instruction.",
                got=list(conversation),
                expected='[{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": ...}]}]',
            )
        prompt = render(self.config.template, lines[0])
        return prompt.prefix + self.audio_token + prompt.suffix

    def batch_decode(self, ids: Tensor, **options: Any) -> list[str]:
        """Turn generated ids (B, T) into texts, without special tokens and outer blanks."""
        options = {"skip_special_tokens": True} | options
        return [line.strip() for line in self.tokenizer.batch_decode(ids, **options)]

    # ---- audio

    def audio_inputs(self, audio: Sequence[np.ndarray], sampling_rate: int = SAMPLE_RATE_HZ) -> SpeechInputs:
        """Return what the encoders take, or took.

        Args:
            audio: B recordings (n,), or B cached encoder outputs (frames, D).

        Raises:
            ModelInputError: A recording is empty, not finite, too long, of another rate or of another kind.
        """
        if not len(audio):
            raise ModelInputError("There is no recording in this batch.")
        if np.ndim(audio[0]) == 2:
            return self._cached(audio)
        if sampling_rate != SAMPLE_RATE_HZ:
            raise ModelInputError(
                "The audio has another sample rate than the model.",
                got=f"{sampling_rate} Hz",
                expected=f"{SAMPLE_RATE_HZ} Hz",
                advice="aista.audio.load_audio(path) reads any file at the right rate.",
            )
        waves = [check_audio(wave, self.config.max_samples, row) for row, wave in enumerate(audio)]
        mel = self.feature_extractor(
            waves,
            sampling_rate=SAMPLE_RATE_HZ,
            padding="max_length",
            max_length=self.config.max_samples,
            return_tensors="pt",
        )["input_features"]
        banks = self._fbank(waves) if self.config.audio_config is not None else {}
        return SpeechInputs(tuple(len(wave) for wave in waves), mel, **banks)

    def _fbank(self, waves: list[np.ndarray]) -> dict[str, Tensor]:
        """Filterbanks for BEATs and their mask: each row for itself, or (SALMONN) of rows padded as audio."""
        beats = self.config.audio_config
        lengths = [max(len(wave), beats.min_samples) for wave in waves]
        longest = max(lengths)
        padded = lengths if beats.batch_invariant else [longest] * len(waves)
        banks = [
            torch.from_numpy(beats_fbank(np.pad(wave, (0, length - len(wave)))))
            for wave, length in zip(waves, padded, strict=True)
        ]
        frames = num_fbank_frames(longest)
        fbank = pad_sequence(banks, batch_first=True)
        if beats.batch_invariant:
            real = torch.tensor([num_fbank_frames(length) for length in lengths])
        else:  # a frame is real if one of the samples that fall to its share is
            real = torch.tensor([-(-length // (longest // frames)) for length in lengths]).clamp(max=frames)
        return {"fbank": fbank, "fbank_mask": torch.arange(frames)[None] < real[:, None]}

    def _cached(self, features: Sequence[np.ndarray]) -> SpeechInputs:
        """Whole windows of frames were cached: their number says how many samples they stand for."""
        rows, lengths = [], []
        for row, array in enumerate(features):
            windows = len(array) // self.config.frames_per_window
            lengths.append(windows * self.config.frames_per_window * SAMPLES_PER_FRAME)
            wanted = self.config.frames_for(lengths[-1])
            if np.shape(array)[1:] != (self.config.feature_dim,) or not 0 < wanted <= len(array):
                raise ModelInputError(
                    f"Cached features of item {row} do not fit the model.",
                    got=np.shape(array),
                    expected=(max(wanted, self.config.frames_per_window), self.config.feature_dim),
                    advice="Cache again: they come from other encoders or another setting of speech_tokens. "
                    "(If this is a recording: it must be mono, of shape (samples,).)",
                )
            rows.append(torch.from_numpy(np.asarray(array[:wanted], dtype=np.float32)))
        return SpeechInputs(tuple(lengths), speech_features=pad_sequence(rows, batch_first=True))


def check_audio(samples: np.ndarray, max_samples: int, row: int = 0) -> np.ndarray:
    """Demand a usable recording, and return it as float32 (n,).

    Raises:
        ModelInputError: It is empty, not finite, too long, not mono, or made of integers.
    """
    wave = np.asarray(samples)
    which = f"Item {row} of audio"
    if wave.ndim != 1:
        raise ModelInputError(f"{which} is not mono.", got=f"shape {wave.shape}", expected="(samples,)")
    if not np.issubdtype(wave.dtype, np.floating):
        raise ModelInputError(
            f"{which} is not floating point.", got=wave.dtype, expected="float32 with full scale 1.0"
        )
    if not len(wave):
        raise ModelInputError(f"{which} is empty.")
    if not np.isfinite(wave).all():
        raise ModelInputError(f"{which} holds values that are not finite (NaN or infinity).")
    if len(wave) > max_samples:
        raise ModelInputError(
            f"{which} is longer than the speech encoder can hear at once.",
            got=f"{len(wave) / SAMPLE_RATE_HZ:.2f} s",
            expected=f"at most {max_samples / SAMPLE_RATE_HZ:.2f} s",
            advice="Cut it at pauses with aista.audio.segment, or use 'aista translate', which does.",
        )
    return wave.astype(np.float32, copy=False)
