"""Every state between audio and speech tokens, to compare with what other code recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from aista.model import SpeechInputs


@torch.no_grad()
def speech_states(model: Any, speech: SpeechInputs) -> dict[str, Any]:
    """Return the states between audio and speech tokens.

    Returns:
        ``speech`` (B, positions, d) and ``audio`` (BeatsFeatures) of the encoders; ``windows`` (W, 17, D)
        that enter the Q-Former; ``query_states``, its input and every layer's output, each (W, queries, h);
        ``embeddings`` (B, N, d) and ``mask`` (B, N).
    """
    qformer = model.window_qformer
    given = speech.input_features.to(model.speech_encoder.conv1.weight.dtype)
    states: dict[str, Any] = {"speech": model.speech_encoder(given).last_hidden_state, "audio": None}
    if model.audio_encoder is not None:
        states["audio"] = model.audio_encoder(speech.fbank, speech.fbank_mask, output_hidden_states=True)
    features = model.encode_audio(speech)
    counts = [model.config.windows_for(length) for length in speech.num_samples]
    states["windows"] = qformer.windows(qformer.fuse(features), counts)
    query = qformer.query.expand(len(states["windows"]), -1, -1)
    output = qformer.qformer(
        query_embeds=query, encoder_hidden_states=states["windows"], output_hidden_states=True
    )
    states["query_states"] = output.hidden_states
    cached = replace(speech, input_features=None, fbank=None, fbank_mask=None, speech_features=features)
    states["embeddings"], states["mask"] = tokens_of(model, cached)
    return states


def tokens_of(model: Any, speech: SpeechInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the speech tokens row by row: (B, N, d), zero where not real, and their mask (B, N)."""
    tokens = model.get_audio_features(**speech.to_dict()).pooler_output
    counts = torch.tensor([model.config.tokens_for(length) for length in speech.num_samples])
    mask = torch.arange(int(counts.max()))[None] < counts[:, None]
    embeddings = tokens.new_zeros(*mask.shape, tokens.shape[-1])
    embeddings[mask] = tokens
    return embeddings, mask
