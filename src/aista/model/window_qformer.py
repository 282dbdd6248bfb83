"""The window Q-Former: 17 encoder frames (0.34 s) become one embedding of the backbone.

Everything trainable besides LoRA lives here: a LayerNorm per encoder, the queries, the Q-Former
(transformers' BLIP-2 one, which computes what SALMONN's does) and the projection to the backbone's width,
which gives speech tokens their direction and their length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Blip2QFormerModel

from aista.model.configuration import AistaConfig
from aista.model.processing import numbers, take

_ROWS = 16_384


class Projection(nn.Linear):
    """A linear layer; with a length given, its outputs keep their direction and get that length.

    Args:
        in_features, out_features: As of ``nn.Linear``.
        length: Of every output; None: what the linear layer gives.

    Gradient: with a length, its part along the output is gone: training turns the tokens and cannot stretch
        them.
    """

    def __init__(self, in_features: int, out_features: int, length: float | None = None) -> None:
        super().__init__(in_features, out_features)
        self.length = length

    def forward(self, states: Tensor) -> Tensor:
        """Project (..., in) to (..., out)."""
        projected = super().forward(states)
        return projected if self.length is None else F.normalize(projected, dim=-1) * self.length


@torch.no_grad()
def embedding_length(embeddings: nn.Module) -> float:
    """Return the median length of a backbone's token embeddings, as they enter its first block.

    The median, because tables hold rows that no tokenizer reaches: zeros, or what they were drawn as.
    """
    count: int = embeddings.num_embeddings  # type: ignore[assignment]
    device = next(embeddings.parameters()).device
    pieces = torch.arange(count, device=device).split(_ROWS)
    return float(torch.cat([embeddings(ids).float().norm(dim=-1) for ids in pieces]).median())


class WindowQFormer(nn.Module):
    """Frames of one or two encoders in, speech tokens out."""

    def __init__(self, config: AistaConfig) -> None:
        super().__init__()
        self.frames, self.queries = config.frames_per_window, config.queries_per_window
        width = config.qformer_config.hidden_size
        self.speech_norm = nn.LayerNorm(config.speech_config.d_model)
        self.audio_norm = nn.LayerNorm(config.audio_config.hidden_size) if config.audio_config else None
        self.query = nn.Parameter(torch.empty(1, self.queries, width).normal_(std=0.02))
        self.qformer = Blip2QFormerModel(config.qformer_config)
        self.projection = Projection(width, config.text_config.hidden_size, config.speech_token_length)

    def fuse(self, features: Tensor) -> Tensor:
        """Normalise each encoder's features; zeros stand where the audio encoder gave nothing.

        Args:
            features: (B, F, D) outputs of the speech encoder and of the audio encoder, concatenated; a frame
                that the audio encoder did not give is all zeros in its part.

        Returns:
            (B, F, D). The zeros follow the LayerNorm (SALMONN pads after it), so they are zeros exactly.
        """
        features = features.to(self.speech_norm.weight.dtype)
        if self.audio_norm is None:
            return self.speech_norm(features)
        parts = [self.speech_norm.normalized_shape[0], self.audio_norm.normalized_shape[0]]
        speech, audio = features.split(parts, dim=-1)
        given = (audio != 0).any(-1, keepdim=True)
        audio = self.audio_norm(audio).masked_fill(~given, 0.0)
        return torch.cat([self.speech_norm(speech), audio.to(speech.dtype)], dim=-1)

    def windows(self, frames: Tensor, num_windows: Sequence[int]) -> Tensor:
        """Cut fused frames into the windows that count.

        Args:
            frames: (B, F, D).
            num_windows: Windows of every row, known to the host.

        Returns:
            (W, frames per window, D) the windows of all rows one after another.
        """
        most = max(num_windows)
        cut = frames[:, : most * self.frames].unflatten(1, (most, self.frames))
        real = [row * most + window for row, count in enumerate(num_windows) for window in range(count)]
        return take(cut, numbers(real, frames.device))

    def forward(self, features: Tensor, num_windows: Sequence[int]) -> Tensor:
        """Summarise every window that counts.

        Args:
            features: (B, F, D) raw encoder features, F at least frames per window times the most windows.
            num_windows: Windows of every row, at least 1 in some row.

        Returns:
            (W * queries, d) speech tokens of the backbone's width, all rows one after another.

        Cost: windows of padding are not computed.
        """
        windows = self.windows(self.fuse(features), num_windows)
        query = self.query.expand(len(windows), -1, -1)
        summaries = self.qformer(query_embeds=query, encoder_hidden_states=windows).last_hidden_state
        return self.projection(summaries).flatten(0, 1)
