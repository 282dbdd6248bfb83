"""From audio and text to the model's inputs, and numbered positions in them.

Positions are taken out and put back without asking an accelerator how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, WhisperFeatureExtractor
from transformers.processing_utils import ProcessorMixin

from aista.audio.rates import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME
from aista.audio.signal import beats_fbank, num_fbank_frames
from aista.errors import ModelInputError
from aista.model import bases, loading
from aista.model.configuration import AistaConfig
from aista.text.prompts import render, template, text_ids


@dataclass(frozen=True)
class SpeechInputs:
    """The sound of B recordings: what the encoders take, or what they gave before.

    Attributes:
        num_samples: Length of every recording at 16 kHz. It stays on the host: from it follow the numbers of
            windows and speech tokens, so nothing has to ask an accelerator for them. None: every window
            counts.
        input_features: (B, mel bins, 2 * positions) log-mel, for the speech encoder.
        fbank: (B, T, 128) filterbank for BEATs, and ``fbank_mask`` (B, T) bool.
        speech_features: (B, F, D) what ``encode_audio`` gave before, in place of the other tensors.
    """

    num_samples: tuple[int, ...] | None = None
    input_features: Tensor | None = None
    fbank: Tensor | None = None
    fbank_mask: Tensor | None = None
    speech_features: Tensor | None = None

    def __post_init__(self) -> None:
        if self.num_samples is not None:
            object.__setattr__(self, "num_samples", tuple(int(n) for n in self.num_samples))

    @classmethod
    def pop(cls, options: dict[str, Any]) -> SpeechInputs | None:
        """Take the fields out of a call's keyword arguments; None where there is no sound among them."""
        found = cls(**{name: options.pop(name, None) for name in NAMES})
        return found if found.size else None

    @property
    def size(self) -> int:
        """B; 0 where there is no sound."""
        given = self.speech_features if self.speech_features is not None else self.input_features
        return 0 if given is None else given.shape[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are there, by name: what ``pop`` takes."""
        return {name: getattr(self, name) for name in NAMES if getattr(self, name) is not None}

    def to(self, device: torch.device | str) -> SpeechInputs:
        """Return the same with its tensors on a device."""
        named = self.to_dict().items()
        moved: dict[str, Any] = {k: v.to(device) for k, v in named if isinstance(v, Tensor)}
        return replace(self, **moved)


NAMES = tuple(field.name for field in fields(SpeechInputs))


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
    def from_pretrained(  # type: ignore[override]
        cls, folder: str | Path, *, replace_bases: dict[str, str] | None = None, **_: Any
    ) -> AistaProcessor:
        """Load the processor of a saved model: its own files, or else those of its bases.

        Args:
            folder: A saved model's, or its id.
            replace_bases: Where the bases lie on this machine, by role, if not where they lay.

        Raises:
            CheckpointError: The folder holds no saved model, or a base is nowhere.
        """
        folder = bases.locate(str(folder))
        config = loading.read_checkpoint_config(folder)
        loading.move_bases(config, replace_bases)
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
        bos = template(self.config.template).bos and self.tokenizer.bos_token_id is not None
        rows = []
        for prompt, count in zip(prompts, counts, strict=True):
            pieces = prompt.split(self.audio_token)
            if len(pieces) > 2 or (speech is not None and len(pieces) < 2):
                raise ModelInputError(
                    "A prompt must hold the speech exactly once.",
                    got=f"{len(pieces) - 1} times {self.audio_token} in {prompt!r}",
                    advice="processor.apply_chat_template puts it there.",
                )
            before, *after = (text_ids(self.tokenizer, piece) for piece in pieces)
            ids = [self.tokenizer.bos_token_id, *before] if bos else before
            if after:
                ids = [*ids, *[self.config.audio_token_id] * count, *after[0]]
            rows.append(torch.tensor(ids))
        real = [torch.ones_like(row) for row in rows]
        batch = {
            "input_ids": pad_sequence(rows, True, self.config.pad_token_id, padding_side),
            "attention_mask": pad_sequence(real, True, 0, padding_side),
        }
        return BatchFeature(batch | ({} if speech is None else speech.to_dict()))

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
        options = {"padding": "max_length", "max_length": self.config.max_samples, "return_tensors": "pt"}
        mel = self.feature_extractor(waves, sampling_rate=SAMPLE_RATE_HZ, **options)["input_features"]
        banks = self._fbank(waves) if self.config.audio_config is not None else {}
        return SpeechInputs(tuple(len(wave) for wave in waves), mel, **banks)

    def _fbank(self, waves: list[np.ndarray]) -> dict[str, Tensor]:
        """Filterbanks for BEATs and their mask: each row for itself, or (SALMONN) of rows padded as audio."""
        beats = self.config.audio_config
        lengths = [max(len(wave), beats.min_samples) for wave in waves]
        longest = max(lengths)
        padded = lengths if beats.batch_invariant else [longest] * len(waves)
        sounds = (np.pad(wave, (0, n - len(wave))) for wave, n in zip(waves, padded, strict=True))
        fbank = pad_sequence([torch.from_numpy(beats_fbank(sound)) for sound in sounds], batch_first=True)
        frames = num_fbank_frames(longest)
        if beats.batch_invariant:
            real = torch.tensor([num_fbank_frames(length) for length in lengths])
        else:  # a frame is real if one of the samples that fall to its share is
            real = torch.tensor([-(-length // (longest // frames)) for length in lengths]).clamp(max=frames)
        return {"fbank": fbank, "fbank_mask": torch.arange(frames)[None] < real[:, None]}

    def _cached(self, features: Sequence[np.ndarray]) -> SpeechInputs:
        """Whole windows of frames were cached: their number says how many samples they stand for."""
        rows, lengths, frames = [], [], self.config.frames_per_window
        for row, array in enumerate(features):
            lengths.append(len(array) * SAMPLES_PER_FRAME)
            wanted = self.config.frames_for(lengths[-1])
            if np.shape(array)[1:] != (self.config.feature_dim,) or not 0 < wanted <= len(array):
                raise ModelInputError(
                    f"Cached features of item {row} do not fit the model.",
                    got=np.shape(array),
                    expected=(max(wanted, frames), self.config.feature_dim),
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
    wave, which = np.asarray(samples), f"Item {row} of audio"
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


def require_placeholders(found: Tensor, expected: list[int]) -> None:
    """Demand that every row with sound has a placeholder for each of its speech tokens.

    Args:
        found: (B,) placeholders of every row, on the CPU.
        expected: Speech tokens of every row with sound, in their order; rows without have no placeholder.

    Raises:
        ModelInputError: There is sound without placeholders, or the reverse, or their numbers differ.
    """
    if bool(expected) != bool(found.any()):
        raise ModelInputError(
            "There is audio but no <Speech> slot for it." if expected else "The <Speech> slot has no audio.",
            advice="Build the batch with the processor of this model.",
        )
    if found[found > 0].tolist() != expected:
        raise ModelInputError(
            "The <Speech> slots do not have the length of the speech.",
            got=f"{found.tolist()} placeholders",
            expected=f"{expected} speech tokens",
            advice="Processor and model must agree in speech_tokens.",
        )


def positions(mask: Tensor, count: int | None = None) -> Tensor:
    """Return where a mask holds, as numbers into its flattened form: (n,) int64, in order.

    Args:
        mask: Bool, any shape.
        count: How often it holds; without it the device is asked.
    """
    if count is None:
        return mask.flatten().nonzero()[:, 0]
    return torch.nonzero_static(mask.flatten(), size=count)[:, 0]


def numbers(values: Sequence[int], device: torch.device) -> Tensor:
    """Bring numbers (n,) that the host knows to a device, without waiting for it."""
    made = torch.tensor(values, dtype=torch.int64)
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made.to(device)


def take(states: Tensor, where: Tensor) -> Tensor:
    """Take the numbered positions out of (B, T, ...): (n, ...)."""
    return states.flatten(0, 1).index_select(0, where)


def put(states: Tensor, where: Tensor, values: Tensor) -> Tensor:
    """Return a copy of (B, T, d) with (n, d) at the numbered positions."""
    return states.flatten(0, 1).index_copy(0, where, values.to(states.dtype)).unflatten(0, states.shape[:2])
