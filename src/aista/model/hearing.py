"""The way from audio to speech tokens: frozen encoders, then the window Q-Former."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aista.errors import ModelInputError
from aista.model.configuration import AistaConfig


class Hearing:
    """The half of the speech LLM that stands before its backbone."""

    config: AistaConfig
    speech_encoder: Any
    audio_encoder: Any
    window_qformer: Any

    @torch.no_grad()
    def encode_audio(
        self,
        input_features: Tensor,
        fbank: Tensor | None = None,
        fbank_mask: Tensor | None = None,
        num_samples: Tensor | None = None,
        *,
        most_windows: int | None = None,
    ) -> Tensor:
        """Run the frozen encoders: what a feature cache keeps.

        Args:
            input_features: (B, mel bins, 2 * positions) log-mel.
            fbank: (B, T, 128) for BEATs, and ``fbank_mask`` (B, T) bool.
            num_samples: (B,) length of the audio; without it every window counts.
            most_windows: Windows of the longest row, if the host knows them; else the device is asked.

        Returns:
            (B, F, D) float32: both encoders' outputs side by side, before the trainable LayerNorms, cut to
            the frames of the row with the most windows (``config.frames_for``).

        Autocast does not reach into it: cached and fresh features are the same numbers.
        """
        most = most_windows or int(self._num_windows(input_features, num_samples).max())
        frames = most * self.config.frames_per_window
        with torch.autocast(input_features.device.type, enabled=False):
            encoder = self.speech_encoder
            speech = (
                encoder(input_features.to(encoder.conv1.weight.dtype)).last_hidden_state[:, :frames].float()
            )
            if self.audio_encoder is None:
                return speech
            if fbank is None:
                raise ModelInputError("This model hears through BEATs too: fbank is missing.")
            audio = self.audio_encoder(fbank.float(), fbank_mask).features[:, :frames]
        return torch.cat([speech, F.pad(audio, (0, 0, 0, frames - audio.shape[1]))], dim=-1)

    def get_audio_features(
        self,
        input_features: Tensor | None = None,
        fbank: Tensor | None = None,
        fbank_mask: Tensor | None = None,
        num_samples: Tensor | None = None,
        speech_features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Turn audio, or cached encoder features, into speech tokens.

        Args:
            input_features, fbank, fbank_mask, num_samples: As for ``encode_audio``.
            speech_features: (B, F, D) what ``encode_audio`` returned, instead of the first three.

        Returns:
            Embeddings (B, N, d) of the backbone's width and their mask (B, N) bool.

        Raises:
            ModelInputError: Neither audio nor features, or features that are too short.
        """
        features, windows, _ = self._features(
            None, input_features, fbank, fbank_mask, num_samples, speech_features
        )
        return self.window_qformer(features, windows)

    def _features(
        self,
        most: int | None,
        input_features: Tensor | None = None,
        fbank: Tensor | None = None,
        fbank_mask: Tensor | None = None,
        num_samples: Tensor | None = None,
        speech_features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, int]:
        """Return the encoders' features (B, F, D), the windows of each row (B,), and the most windows."""
        if speech_features is None:
            if input_features is None:
                raise ModelInputError("There is neither audio nor cached speech_features.")
            speech_features = self.encode_audio(
                input_features, fbank, fbank_mask, num_samples, most_windows=most
            )
        windows = self._num_windows(speech_features, num_samples)
        most = most or int(windows.max())
        if most * self.config.frames_per_window > speech_features.shape[1]:
            raise ModelInputError(
                "There are fewer features than num_samples implies.",
                got=tuple(speech_features.shape),
                expected=f"{most * self.config.frames_per_window} frames",
                advice="Were they cached for another setting of speech_tokens?",
            )
        return speech_features, windows, most

    def _num_windows(self, like: Tensor, num_samples: Tensor | None) -> Tensor:
        if num_samples is None:
            return torch.full((like.shape[0],), self.config.max_windows, device=like.device)
        return self.config.windows_of(num_samples.to(like.device))

    def _require_slots(self, slots: Tensor, num_samples: Tensor | None) -> None:
        """Demand that every row has a place for each of its speech tokens."""
        expected = self._num_windows(slots, num_samples) * self.config.queries_per_window
        if not torch.equal(slots, expected):
            raise ModelInputError(
                "The <Speech> slots do not have the length of the speech.",
                got=f"{slots.tolist()} places",
                expected=f"{expected.tolist()} speech tokens",
                advice="Processor and model must agree in speech_tokens.",
            )
