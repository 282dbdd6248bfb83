"""Weights of llama.cpp and CTranslate2 are known by their files or their name, and the way out is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aista.errors import CheckpointError
from aista.model.bases import read_config
from tests import tiny


@pytest.mark.parametrize("name", ["file", "folder", "hub copy without the file"])
def test_gguf_is_told_how_to_convert(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "models--Qwen--Some-GGUF" / "snapshots" / "abc" if "hub" in name else tmp_path / "lm"
    folder.mkdir(parents=True)
    (folder / "README.md").touch()
    if "hub" not in name:
        (folder / "q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="GGUF") as error:
        read_config(folder / "q4.gguf" if name == "file" else folder)
    assert "from_pretrained" in str(error.value) and "save_pretrained" in str(error.value)


@pytest.mark.parametrize("repository", ["mine", "faster-whisper-base"])
def test_ctranslate2_is_told_the_original(tmp_path: Path, repository: str) -> None:
    folder = tmp_path / repository
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"suppress_ids": [1], "lang_ids": [50259]}))
    if repository == "mine":
        (folder / "model.bin").write_bytes(b"\6\0\0\0")
    with pytest.raises(CheckpointError, match="CTranslate2") as error:
        read_config(folder)
    assert "openai/whisper-base" in str(error.value)


def test_real_weights_beside_such_a_file_are_used(tmp_path: Path) -> None:
    folder = tiny.language_model(tmp_path / "model-GGUF")
    (folder / "copy.gguf").touch()
    assert read_config(folder).model_type == "qwen2"
