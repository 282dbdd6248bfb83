"""What the encoder takes whole is heard whole; what is longer is cut into whole windows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from aista.speech_llm import SpeechLM
from tests.evaluation.standins import Processor

# The shipped model (5 s, 14 windows) and Whisper (30 s, 88 windows).
MODELS = [(80_000, 14), (480_000, 88)]


@pytest.mark.parametrize(("most", "windows"), MODELS)
def test_up_to_the_encoders_span_nothing_is_cut(most, windows):
    sizes = {"max_samples": most, "max_windows": windows, "frames_per_window": 17}
    config = SimpleNamespace(**sizes, model_type="aista", audio_token_id=2, end_token_id=1)
    decoder = SimpleNamespace(layers=[])
    model = SimpleNamespace(config=config, get_decoder=lambda: decoder)
    speech_llm = SpeechLM(model, Processor())
    assert speech_llm.longest_seconds == most / 16_000
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * most).astype(np.float32)
    for count in (1, windows * 5_440 - 1, windows * 5_440, windows * 5_440 + 1, most - 1, most):
        (piece,) = speech_llm.pieces(noise[:count])
        assert (piece.start_sample, piece.end_sample) == (0, count)
    for count in (most + 1, 3 * most):
        pieces = speech_llm.pieces(noise[:count])
        assert sum(piece.end_sample - piece.start_sample for piece in pieces) == count
        assert max(piece.end_sample - piece.start_sample for piece in pieces) <= windows * 5_440


def test_the_shipped_model_hears_a_clip_of_its_whole_span():
    import aista

    translator = aista.load()
    most = translator.model.config.max_samples
    noise = np.random.default_rng(0).normal(0, 0.1, most).astype(np.float32)
    assert len(translator.pieces(noise)) == 1
    assert len(translator.translate(noise, "zh").segments) == 1
