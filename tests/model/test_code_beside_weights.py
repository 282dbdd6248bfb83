"""Code beside weights is never run, never asked for, never advised; weights lie in their folder."""

from __future__ import annotations

import io
import json

import pytest

from aista.errors import AistaError, CheckpointError
from aista.model import bases


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model that wants to run evil.py, and a terminal that would say yes to everything."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\nyes\n" * 9))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked at the terminal"))
    mark = tmp_path / "PWNED"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    yield tmp_path
    assert not mark.exists()


CONFIG = {
    "model_type": "of_its_own",
    "auto_map": {
        "AutoConfig": "evil.Evil",
        "AutoModelForCausalLM": "evil.Evil",
        "AutoProcessor": "evil.Evil",
    },
}


def test_configurations_backbones_and_tokenizers(folder):
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}})
    )
    for load in (
        bases.read_config,
        bases.speech_config,
        bases.load_tokenizer,
        lambda path: bases.load_backbone(path, None),
    ):
        with pytest.raises(CheckpointError) as caught:
            load(folder)
        assert "trust_remote_code" not in str(caught.value)


def test_speech_llms_of_transformers(folder):
    from aista.baselines.speech_llm import System

    (folder / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(AistaError) as caught:
        System(str(folder))
    assert "trust_remote_code" not in str(caught.value)


@pytest.mark.parametrize("name", ["../other/x.safetensors", "/etc/passwd", "a/../../x.safetensors"])
def test_an_index_names_weights_of_its_folder_alone(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        list(bases.tensors(tmp_path))
