"""Weights without their tokenizer are refused wherever they are loaded: every text would become nothing."""

from __future__ import annotations

import shutil

import pytest

from aista.errors import CheckpointError
from aista.model.bases import check_tokenizer, load_tokenizer
from aista.model.loading import configure
from aista.model.processing import AistaProcessor
from tests import tiny


def _without_tokenizer(folder):
    for path in folder.iterdir():
        if path.name not in ("config.json", "generation_config.json", "model.safetensors"):
            path.unlink()
    return folder


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_a_backbone_without_a_tokenizer_is_refused(tmp_path, kind):
    whisper, backbone = tiny.whisper(tmp_path / "whisper"), tiny.language_model(tmp_path / "lm", kind=kind)
    assert load_tokenizer(backbone)("a")["input_ids"]
    _without_tokenizer(backbone)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        configure(str(whisper), str(backbone), template="chatml")
    with pytest.raises(CheckpointError, match="no tokenizer"):
        AistaProcessor.from_bases(str(whisper), str(backbone), template="chatml")


def test_a_model_folder_whose_tokenizer_is_lost_is_refused(tmp_path):
    whisper, backbone = tiny.whisper(tmp_path / "whisper"), tiny.language_model(tmp_path / "lm")
    AistaProcessor.from_bases(str(whisper), str(backbone)).save_pretrained(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "part")
    (tmp_path / "part/tokenizer.json").unlink()  # its configuration is still there
    with pytest.raises(CheckpointError, match="no tokenizer"):
        AistaProcessor.from_pretrained(tmp_path / "part")


def test_a_tokenizer_of_unknown_tokens_alone_is_refused():
    def unknown(text, **_):
        return {"input_ids": [0] * len(text)}

    unknown.unk_token_id = 0
    with pytest.raises(CheckpointError, match="no tokenizer"):
        check_tokenizer(unknown, "here")
