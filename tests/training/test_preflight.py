"""The figures that are printed before a joint run."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console

from aista.alignment import alignment
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest, write_manifest
from aista.model.processing import AistaProcessor
from aista.model.speech_lm import AistaForConditionalGeneration
from aista.speech_llm import SpeechLM
from aista.training.preflight import preflight
from tests import tiny


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preflight")
    torch.manual_seed(0)
    model = AistaForConditionalGeneration.from_bases(
        speech_encoder=str(tiny.whisper(folder / "whisper")),
        backbone=str(tiny.language_model(folder / "lm")),
        qformer={"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24},
    )
    rows = SpeechDataset([Manifest(tiny.manifest(folder / "st.jsonl", count=5))])
    return SpeechLM(model, AistaProcessor.from_config(model.config)), rows


def test_ratio_follows_alpha_and_the_scale_of_the_cost(parts):
    speech_llm, rows = parts
    raw = preflight(speech_llm, rows, alignment("wasserstein", (0, 2)), alpha=0.9)
    assert [row.layer for row in raw.layers] == [0, 2] and raw.num_pairs == 5
    assert raw.alignment == pytest.approx(sum(row.wasserstein for row in raw.layers) / 2, rel=1e-4)
    assert raw.ratio == pytest.approx(0.1 * raw.alignment / (0.9 * raw.cross_entropy))
    scaled = preflight(speech_llm, rows, alignment("wasserstein", (0, 2), scale="text_spread"), 0.9)
    expected = sum(row.wasserstein / row.text_spread for row in raw.layers) / 2
    assert scaled.alignment == pytest.approx(expected, rel=1e-4)
    assert raw.swamped == (raw.ratio > 1)


def test_transcripts_of_one_token_have_no_spread(parts, tmp_path):
    """Equal tokens are all at their mean: what is divided by their spread is not shown."""
    speech_llm, rows = parts
    alike = [row.model_copy(update={"text": "a"}) for row in rows.utterances()]
    write_manifest(tmp_path / "alike.jsonl", alike)
    for count in (1, 5):
        one = SpeechDataset([Manifest(tmp_path / "alike.jsonl")]).subset(range(count))
        found = preflight(speech_llm, one, alignment("wasserstein", (0,)), alpha=0.9)
        found.show(Console(file=(shown := io.StringIO()), width=120))
        assert " - " in shown.getvalue() and found.layers[0].wasserstein > 0


def test_nothing_is_changed(parts):
    speech_llm, rows = parts
    model = speech_llm.model.train()
    state = torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.trainable_state_dict().items()}
    preflight(speech_llm, rows, alignment("wasserstein", (1,)), alpha=0.99)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training and not model.speech_encoder.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.trainable_state_dict().items())


def test_base_shows_the_embedding_layer_and_no_ratio(parts, tmp_path):
    speech_llm, rows = parts
    found = preflight(speech_llm, rows, alignment("none", ()), alpha=1.0)
    assert [row.layer for row in found.layers] == [0] and found.ratio is None and not found.swamped
    found.save(tmp_path)
    assert json.loads((tmp_path / "preflight.json").read_text())["cross_entropy"] == found.cross_entropy
    page = io.StringIO()
    found.show(Console(file=page, width=100))
    assert "cross-entropy" in page.getvalue() and "W / text spread" in page.getvalue()


@pytest.mark.parametrize(("scale", "advised"), [("raw", True), ("text_spread", False), ("cosine", False)])
def test_a_scale_that_is_set_is_not_advised(parts, scale: str, advised: bool) -> None:
    speech_llm, rows = parts
    found = preflight(speech_llm, rows, alignment("wasserstein", (0,), scale=scale), alpha=1e-6)
    page = io.StringIO()
    found.show(Console(file=page, width=200))
    assert found.swamped and ("scale=cosine" in page.getvalue()) == advised
    assert "larger alignment.alpha" in page.getvalue()
