"""The model that is shipped without its bases: ``aista.load("base")``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from aista.errors import CheckpointError
from aista.inference.translator import ABOUT, load
from aista.model import bases
from aista.model.loading import read_checkpoint_config, read_trained

FOLDER = bases.locate("aista:base")


def test_it_is_found_by_its_short_name_unless_a_folder_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bases.locate("base") == FOLDER
    (tmp_path / "base").mkdir()
    assert bases.locate("base") == tmp_path / "base"


def test_it_names_its_bases_by_hub_ids_and_knows_them_by_their_values() -> None:
    text = (FOLDER / "config.json").read_text()
    assert "/root" not in text and "/work" not in text and "beside" not in text
    named = json.loads(text)["bases"]
    assert {role: base["source"] for role, base in named.items()} == {
        "speech_encoder": "openai/whisper-base",
        "backbone": "Qwen/Qwen2.5-Coder-0.5B-Instruct",
    }
    assert all(len(base["likeness"]) >= 8 and "fingerprint" not in base for base in named.values())


def test_its_tensors_are_those_that_its_configuration_asks_for() -> None:
    config, tensors = read_checkpoint_config(FOLDER), read_trained(FOLDER)
    assert all(tensor.dtype == torch.float16 and tensor.isfinite().all() for tensor in tensors.values())
    width = config.text_config.hidden_size
    assert tensors["window_qformer.projection.weight"].shape == (width, config.qformer_config.hidden_size)
    lora = [name for name in tensors if "lora_A" in name]
    assert lora and all(len(tensors[name]) == config.lora["r"] for name in lora)


def test_without_its_bases_it_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(bases, "snapshot_download", offline)
    with pytest.raises(CheckpointError) as caught:
        load("base")
    assert "Qwen/Qwen2.5-Coder-0.5B-Instruct" in str(caught.value)
    assert "aista download" in str(caught.value) and "--base backbone=PATH" in str(caught.value)


def test_whoever_uses_it_is_told_what_it_cannot_do() -> None:
    assert "people's speech" in ABOUT["aista:base"]
    assert (FOLDER / "README.md").is_file()
