"""Families of language models are found by name, and a new one is one file: the guide's."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from aista.cli import main as cli
from aista.config import ModelSettings
from aista.errors import CheckpointError, ConfigError
from aista.model import AistaForConditionalGeneration, backbones
from aista.speech_llm import SpeechLM
from aista.training.stages import fresh_model
from tests.model.conftest import QFORMER, noise
from tests.tiny import tokenizer

GUIDE = Path(__file__).resolve().parents[2] / "docs/guides/own-backbone.md"


@pytest.mark.parametrize("name", backbones.names())
def test_every_family_is_described(name):
    assert isinstance(backbones.family(name), backbones.Family)


def test_a_family_without_a_file_is_treated_as_llama():
    assert backbones.family("mistral") == backbones.family("default")


@pytest.mark.parametrize("backbone", ["llama", "qwen2"])
def test_the_output_layer_multiplies_whole_arrays_while_answers_are_written(bases, backbone):
    """torch 2.13 on a CPU: a bfloat16 view of each row's last state costs a copy of the matrix a row."""
    model, processor = bases.model(backbone, beats=False)
    seen = []
    model.get_output_embeddings().register_forward_pre_hook(
        lambda module, given: seen.append((tuple(given[0].shape), given[0].is_contiguous()))
    )
    speech_llm = SpeechLM(model, processor)
    speech_llm.generate(speech_llm.batcher.translation(noise(0.5, 1.2), ["Go."] * 2), max_new_tokens=3)
    assert seen[0][0][:2] == (2, 1) and len(seen) >= 2
    assert all(whole for _, whole in seen)


@pytest.fixture
def neox(bases) -> str:
    folder = bases.root / "gpt_neox"
    if not folder.exists():
        torch.manual_seed(3)
        sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
        GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=262, **sizes)).save_pretrained(folder)
        tokenizer(folder)
    return str(folder)


@pytest.mark.parametrize("dotted", [False, True])
def test_the_guide_adds_a_language_model_in_one_file(bases, neox, tmp_path, monkeypatch, dotted):
    """Without it the model is refused with a pointer to the guide; with it everything works."""
    with pytest.raises(ConfigError, match="own-backbone"):
        bases.model("gpt_neox", beats=False)
    section = GUIDE.read_text().partition("## One file for a family")[2]
    code, start = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / f"{'neox' if dotted else 'gpt_neox'}.py").write_text(code)
    if dotted:
        monkeypatch.syspath_prepend(tmp_path)
    else:
        monkeypatch.setattr(backbones, "__path__", [*backbones.__path__, str(tmp_path / "mypackage")])
    model, processor = bases.model("gpt_neox", beats=False, family="mypackage.neox" if dotted else None)
    speech_llm = SpeechLM(model, processor)
    batch = speech_llm.batcher.training(noise(0.5, 1.2), ["Go."] * 2, ["x", "yy"])
    text = speech_llm.batcher.written(batch, ["a", "bc"])
    output = speech_llm.predict(batch, [0, 1, 3])
    output.loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if ".lora_B" in n)
    states = speech_llm.text_states(text, [1])
    assert states[1].shape[-1] == 32
    question = speech_llm.batcher.translation(noise(0.5), ["Go."])
    assert speech_llm.generate(question, max_new_tokens=3).shape == (1, 3)
    model.save_pretrained(tmp_path / "saved")
    AistaForConditionalGeneration.from_pretrained(tmp_path / "saved", dtype="float32")
    if dotted:
        shape = {"speech_encoder": bases.path("whisper102"), "backbone": neox, "qformer": QFORMER}
        fresh, _ = fresh_model(ModelSettings.of({**shape, "family": "mypackage.neox"}), seed=1)
        assert fresh.blocks_path == "layers" and fresh.config.family == "mypackage.neox"
        monkeypatch.delitem(sys.modules, "mypackage.neox")
        with pytest.raises(CheckpointError, match=r"(?s)another package.*import mypackage\.neox before"):
            AistaForConditionalGeneration.from_pretrained(tmp_path / "saved")
        again = []
        load = AistaForConditionalGeneration.from_pretrained
        monkeypatch.setattr(cli, "main", lambda: again.append(load(tmp_path / "saved")))
        exec(compile(start, str(GUIDE), "exec"), {})
        assert again
