"""From audio and text to the model's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, WhisperFeatureExtractor
from transformers.processing_utils import ProcessorMixin

from aista.audio.fbank import beats_fbank, num_fbank_frames
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.errors import ModelInputError
from aista.model import assembly, bases, spans
from aista.model.configuration import AistaConfig
from aista.model.layout import Layout
from aista.text.prompts import instruction, render

__all__ = ["AistaProcessor"]


class AistaProcessor(ProcessorMixin):
    """Everything between a user's audio and text and the tensors the model takes.

    It follows the model's configuration, so the two cannot disagree about windows, templates or tokens.
    """

    def __init__(
        self, feature_extractor: WhisperFeatureExtractor, tokenizer: Any, config: AistaConfig
    ) -> None:
        super().__init__(feature_extractor, tokenizer)
        self.config = config

    # ---- making and keeping

    @classmethod
    def from_config(cls, config: AistaConfig, *, beside: Path | None = None) -> AistaProcessor:
        """Make the processor of a model from its configuration; its bases must be at hand."""
        paths = assembly.locate_bases(config, beside)
        extractor = bases.load_feature_extractor(paths["speech_encoder"])
        return cls(extractor, bases.load_tokenizer(paths["backbone"]), config)

    @classmethod
    def from_bases(
        cls, speech_encoder: str, backbone: str, audio_encoder: str | None = None, **settings: Any
    ) -> AistaProcessor:
        """Make the processor for a model on these bases; arguments as for ``assembly.configure``."""
        return cls.from_config(assembly.configure(speech_encoder, backbone, audio_encoder, **settings))

    @classmethod
    def from_pretrained(cls, folder: str | Path, **_: Any) -> AistaProcessor:  # type: ignore[override]
        """Load the processor of a saved model: its own files, or else those of its bases.

        Raises:
            CheckpointError: The folder holds no saved model.
        """
        folder = bases.locate(str(folder))
        config = assembly.read_checkpoint_config(folder)
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
        if not (folder / assembly.CONFIG).is_file():
            self.config.save_pretrained(folder)

    # ---- using

    def __call__(
        self,
        audio: Sequence[np.ndarray] | None = None,
        text: Sequence[str] | str | None = None,
        targets: Sequence[str] | None = None,
        transcripts: Sequence[str] | None = None,
        *,
        transcript_answers: bool = False,
        sampling_rate: int = SAMPLE_RATE_HZ,
        features: Sequence[np.ndarray] | None = None,
        num_samples: Sequence[int] | None = None,
        source_text: Sequence[str] | None = None,
        task: str = "st",
        language: str | None = None,
        padding_side: str | None = None,
        max_target_tokens: int | None = None,
    ) -> BatchFeature:
        """Prepare a batch.

        Exactly one of ``audio``, ``features`` and ``source_text`` fills the ``<Speech>`` slot of the prompts.

        Args:
            audio: B mono recordings, float arrays (n,) at 16 kHz with full scale 1.0.
            text: B instructions, or one for all; None: the standard one for ``task`` and ``language``.
            targets: B answers. Each ends with the template's end token.
            transcripts: B transcripts, for the text branch of the alignment.
            transcript_answers: Let them be followed by the question and the target, as the speech is.
            sampling_rate: Of ``audio``, in Hz; anything but 16,000 is refused rather than resampled unseen.
            features: B cached encoder outputs (frames, D), with ``num_samples``, the lengths of their audio.
            source_text: B texts that stand where the speech would (zero-shot text translation).
            task, language: For the standard instruction, see ``aista.text.prompts``.
            padding_side: ``right`` (default with targets), ``left`` (default without: to generate), or
                ``between`` prompt and target (SALMONN's habit).
            max_target_tokens: Cut answers to so many tokens, end included (a cut answer has no end).

        Returns:
            ``input_ids``, ``attention_mask``, ``speech_mask`` (B, T), ``labels`` (with targets),
            ``num_samples`` (B,); ``input_features`` (B, mel, frames), ``fbank`` (B, T, 128) and
            ``fbank_mask``, or ``speech_features`` (B, F, D); with transcripts ``transcript_input_ids``,
            ``transcript_attention_mask`` and ``transcript_mask`` (B, S), and with ``transcript_answers``
            ``transcript_labels`` (B, S); with targets, ``layout``: the batch in numbers.

        Raises:
            ModelInputError: Nothing or too much fills the slot, the numbers of things differ, or audio is
                empty, not finite, too long, of another rate or of another kind.
            ConfigError: The task, language or template is unknown.
        """
        size = _one_of(audio, features, source_text)
        texts = self._instructions(text, size, task, language)
        for name, things in (("text", texts), ("targets", targets), ("transcripts", transcripts)):
            if things is not None and len(things) != size:
                raise ModelInputError(f"There are {len(things)} {name} for a batch of {size}.")
        batch: dict[str, Any] = {}
        if audio is not None:
            batch = self.audio_inputs(audio, sampling_rate)
        elif features is not None:
            batch = self._cached(features, num_samples)
        slots: list[int | list[int]]
        if source_text is not None:
            slots = [spans.text_ids(self.tokenizer, line) for line in source_text]
        else:
            slots = [self.config.tokens_for(n) for n in batch["num_samples"].tolist()]
        side = padding_side or ("left" if targets is None else "right")
        batch |= self._sequences(texts, slots, targets, side, max_target_tokens)
        if transcripts is not None:
            answers = targets if transcript_answers else None
            batch |= self._text_branch(texts, transcripts, answers, max_target_tokens)
            if targets is not None:
                widest = int(batch["transcript_mask"].sum(1).max())
                batch["layout"] = replace(batch["layout"], widest_transcript=widest)
        return BatchFeature(batch)

    def batch_decode(self, ids: Tensor, **options: Any) -> list[str]:
        """Turn generated ids (B, T) into texts, without special tokens and outer blanks."""
        options = {"skip_special_tokens": True} | options
        return [line.strip() for line in self.tokenizer.batch_decode(ids, **options)]

    # ---- text

    def _instructions(
        self, text: Sequence[str] | str | None, size: int, task: str, language: str | None
    ) -> list[str]:
        if text is None:
            text = instruction(task, language)
        return [text] * size if isinstance(text, str) else list(text)

    def _sequences(
        self,
        texts: Sequence[str],
        slots: Sequence[int | list[int]],
        targets: Sequence[str] | None,
        side: str,
        most: int | None,
    ) -> dict[str, Any]:
        if side not in ("left", "right", "between"):
            raise ModelInputError("Unknown padding_side.", got=side, expected="left, right or between")
        rows = self._rows(texts, slots, targets, most)
        batch: dict[str, Any] = spans.batch_rows(rows, self.config.pad_token_id, side)
        if targets is None:
            del batch["labels"]
        else:
            batch["layout"] = Layout.of_rows(rows, side)
        return batch

    def _rows(
        self,
        texts: Sequence[str],
        slots: Sequence[int | list[int]],
        targets: Sequence[str] | None,
        most: int | None,
    ) -> list[spans.Row]:
        pad, rows = self.config.pad_token_id, []
        for row, (line, slot) in enumerate(zip(texts, slots, strict=True)):
            target: list[int] = []
            if targets is not None:
                target = [*spans.text_ids(self.tokenizer, targets[row]), self.config.end_token_id][:most]
            rows.append(spans.make_row(self.tokenizer, render(self.config.template, line), slot, target, pad))
        return rows

    def _text_branch(
        self,
        texts: Sequence[str],
        transcripts: Sequence[str],
        answers: Sequence[str] | None,
        most: int | None,
    ) -> dict[str, Tensor]:
        """Prefix and transcript; question and answer, which cannot change their states, only if asked for."""
        inside = [spans.text_ids(self.tokenizer, transcript) for transcript in transcripts]
        rows = self._rows(texts, inside, answers, most)
        sequences = [
            row.prompt[: row.slot.stop] if answers is None else row.prompt + row.target for row in rows
        ]
        places = [
            [row.slot.start <= place < row.slot.stop for place in range(len(sequence))]
            for row, sequence in zip(rows, sequences, strict=True)
        ]
        ids, mask = spans.stack(sequences, self.config.pad_token_id, "right")
        batch = {
            "transcript_input_ids": ids,
            "transcript_attention_mask": mask.long(),
            "transcript_mask": spans.stack(places, 0, "right")[0].bool(),
        }
        if answers is not None:
            labels = [[spans.IGNORED] * len(row.prompt) + row.target for row in rows]
            batch["transcript_labels"] = spans.stack(labels, spans.IGNORED, "right")[0]
        return batch

    # ---- audio

    def audio_inputs(
        self, audio: Sequence[np.ndarray], sampling_rate: int = SAMPLE_RATE_HZ
    ) -> dict[str, Tensor]:
        """Return what ``encode_audio`` takes: ``input_features``, ``num_samples``, ``fbank``, ``fbank_mask``.

        Raises:
            ModelInputError: A recording is empty, not finite, too long, of another rate or of another kind.
        """
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
        batch = {"input_features": mel, "num_samples": torch.tensor([len(wave) for wave in waves])}
        return batch | (self._fbank(waves) if self.config.audio_config is not None else {})

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
        fbank = torch.nn.utils.rnn.pad_sequence(banks, batch_first=True)
        if beats.batch_invariant:
            real = torch.tensor([num_fbank_frames(length) for length in lengths])
        else:  # a frame is real if one of the samples that fall to its share is
            real = torch.tensor([-(-length // (longest // frames)) for length in lengths]).clamp(max=frames)
        return {"fbank": fbank, "fbank_mask": torch.arange(frames)[None] < real[:, None]}

    def _cached(self, features: Sequence[np.ndarray], num_samples: Sequence[int] | None) -> dict[str, Tensor]:
        if num_samples is None or len(num_samples) != len(features):
            raise ModelInputError("Cached features need num_samples, the length of each one's audio.")
        rows = []
        for row, (array, length) in enumerate(zip(features, num_samples, strict=True)):
            wanted = self.config.frames_for(int(length))
            if array.ndim != 2 or array.shape[1] != self.config.feature_dim or len(array) < wanted:
                raise ModelInputError(
                    f"Cached features of item {row} do not fit the model and the length of the audio.",
                    got=array.shape,
                    expected=(wanted, self.config.feature_dim),
                    advice="Cache again: they come from other encoders or another setting of speech_tokens.",
                )
            rows.append(torch.from_numpy(np.asarray(array[:wanted], dtype=np.float32)))
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return {"speech_features": padded, "num_samples": torch.tensor([int(n) for n in num_samples])}


def _one_of(*fillers: Sequence[Any] | None) -> int:
    """Demand that one thing fills the slot; return the size of the batch."""
    given = [thing for thing in fillers if thing is not None]
    if len(given) != 1 or not len(given[0]):
        raise ModelInputError(
            "Exactly one thing must fill the <Speech> slot.",
            got=f"{len(given)} of audio, features, source_text" if len(given) != 1 else "an empty batch",
            advice="processor(audio=[samples], text=[instruction])",
        )
    return len(given[0])


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
