"""Every state between audio and speech tokens, to compare with what other code recorded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def speech_states(model: Any, num_samples: Tensor | None = None, **audio: Tensor) -> dict[str, Any]:
    """Return the states between audio and speech tokens.

    Args:
        num_samples: (B,).
        audio: ``input_features``, ``fbank``, ``fbank_mask``.

    Returns:
        ``speech`` (B, positions, d) and ``audio`` (BeatsFeatures) of the encoders; ``windows`` (W, 17, D)
        that enter the Q-Former; ``query_states``, its input and every layer's output, each (W, queries, h);
        ``embeddings`` (B, N, d) and ``mask`` (B, N).
    """
    qformer = model.window_qformer
    speech = model.speech_encoder(audio["input_features"].to(model.speech_encoder.conv1.weight.dtype))
    states: dict[str, Any] = {"speech": speech.last_hidden_state, "audio": None}
    if model.audio_encoder is not None:
        states["audio"] = model.audio_encoder(
            audio["fbank"], audio.get("fbank_mask"), output_hidden_states=True
        )
    features = model.encode_audio(num_samples=num_samples, **audio)
    counts = model._num_windows(features, num_samples)
    states["windows"], _ = qformer.windows(qformer.fuse(features), counts)
    query = qformer.query.expand(len(states["windows"]), -1, -1)
    output = qformer.qformer(
        query_embeds=query, encoder_hidden_states=states["windows"], output_hidden_states=True
    )
    states["query_states"] = output.hidden_states
    states["embeddings"], states["mask"] = qformer(features, counts)
    return states
