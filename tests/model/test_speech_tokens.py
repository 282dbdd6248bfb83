"""Speech tokens at the backbone's own length, and a shorter input of the speech encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aista.errors import ConfigError
from aista.model import AistaForConditionalGeneration, AistaProcessor
from aista.model.bases import load_speech_encoder
from aista.model.feature_cache import encoder_fingerprint
from aista.model.window_qformer import Projection, embedding_length
from tests.tiny import language_model, whisper

QFORMER = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}


def model_on(folder: Path, **settings: object) -> AistaForConditionalGeneration:
    return AistaForConditionalGeneration.from_bases(
        str(whisper(folder / "whisper")), str(language_model(folder / "lm")),
        **{"qformer": QFORMER, **settings},
    )  # fmt: skip


def tokens_of(model: AistaForConditionalGeneration, seconds: float) -> torch.Tensor:
    samples = int(16_000 * seconds)
    noise = (np.random.default_rng(1).standard_normal(samples) * 0.1).astype(np.float32)
    inputs = AistaProcessor.from_config(model.config).audio_inputs([noise])
    cached = {"speech_features": model.encode_audio(inputs), "num_samples": inputs.num_samples}
    return model.get_audio_features(**cached).pooler_output


def test_speech_tokens_are_as_long_as_the_backbones_embeddings(tmp_path: Path) -> None:
    model = model_on(tmp_path, speech_token_scale="embeddings")
    length = model.config.speech_token_length
    table = model.get_input_embeddings().weight.norm(dim=1)
    assert length == pytest.approx(float(table.median()))
    torch.testing.assert_close(tokens_of(model, 1.0).norm(dim=-1), torch.full((3,), length))
    model.save_pretrained(tmp_path / "saved")
    again = AistaForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert torch.equal(tokens_of(again, 1.0), tokens_of(model, 1.0))


def test_by_default_the_projection_is_a_plain_linear_layer(tmp_path: Path) -> None:
    model = model_on(tmp_path)
    assert model.config.speech_token_length is None
    states = torch.randn(4, 16)
    projection = model.window_qformer.projection
    assert torch.equal(
        projection(states), torch.nn.functional.linear(states, projection.weight, projection.bias)
    )


def test_a_length_cannot_be_trained_away() -> None:
    projection = Projection(6, 9, length=0.5)
    states = torch.randn(7, 6)
    loss = (projection(states) * torch.randn(9)).sum()
    loss.backward()
    with torch.no_grad():
        projection.weight -= 10 * projection.weight.grad
        projection.bias -= 10 * projection.bias.grad
    torch.testing.assert_close(projection(states).norm(dim=-1), torch.full((7,), 0.5))


def test_rows_that_no_tokenizer_reaches_do_not_move_the_length() -> None:
    table = torch.nn.Embedding(20, 4)
    with torch.no_grad():
        table.weight.copy_(torch.nn.functional.normalize(torch.randn(20, 4), dim=1) * 3)
        table.weight[16:] = 0
    assert embedding_length(table) == pytest.approx(3.0)


def test_an_unknown_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="speech_token_scale"):
        model_on(tmp_path, speech_token_scale="huge")


def test_a_shorter_window_uses_the_first_positions(tmp_path: Path) -> None:
    """A clip that fills the short input gives what a Whisper of that many positions would give."""
    long, short = whisper(tmp_path / "long", 102), tmp_path / "short"
    model = model_on(tmp_path, speech_window_seconds=1.02)
    assert model.config.max_samples == 51 * 320 and model.config.max_windows == 3
    encoder = load_speech_encoder(long, torch.float32)
    encoder.embed_positions.weight = torch.nn.Parameter(encoder.embed_positions.weight[:51].clone())
    encoder.config.max_source_positions = encoder.embed_positions.num_embeddings = 51
    mel = torch.randn(2, 80, 102, generator=torch.Generator().manual_seed(0))
    wanted = encoder(mel).last_hidden_state
    torch.testing.assert_close(model.speech_encoder(mel).last_hidden_state, wanted)
    model.save_pretrained(short)
    again = AistaForConditionalGeneration.from_pretrained(short)
    torch.testing.assert_close(again.speech_encoder(mel).last_hidden_state, wanted)
    assert torch.equal(tokens_of(again, 0.9), tokens_of(model, 0.9))


def test_features_of_another_window_are_other_features(tmp_path: Path) -> None:
    whole, short = model_on(tmp_path), model_on(tmp_path, speech_window_seconds=1.02)
    assert encoder_fingerprint(whole.config) != encoder_fingerprint(short.config)
    narrow = model_on(tmp_path, qformer={**QFORMER, "frames_per_window": 8})  # keeps other frames of a clip
    assert encoder_fingerprint(whole.config) != encoder_fingerprint(narrow.config)


@pytest.mark.parametrize("seconds", [0.001, 2.06, -1.0])
def test_a_window_that_does_not_fit_is_refused(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ConfigError, match="speech_window_seconds"):
        model_on(tmp_path, speech_window_seconds=seconds)
