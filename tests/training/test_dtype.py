"""Every verb that loads a saved model loads its frozen weights in the type that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import aista
from aista.config import AlignSettings, PretrainSettings, SelectSettings
from aista.evaluation.evaluate import EvaluateSettings, evaluate
from aista.model import bases
from aista.model.lora import is_lora
from aista.selection.select import select
from aista.training.stages import align, joint, pretrain
from tests import tiny


@pytest.mark.slow
def test_every_verb_runs_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage1 = tiny.pretrain_settings(tmp_path, max_steps=2)
    start = str(pretrain(stage1).folder)
    loaded: list[torch.dtype] = []
    load_backbone = bases.load_backbone
    monkeypatch.setattr(bases, "load_backbone", lambda *a, **k: loaded.append(a[1]) or load_backbone(*a, **k))
    translator = aista.load(start, dtype="bfloat16")
    assert translator.model.get_input_embeddings().weight.dtype == torch.bfloat16
    for name, parameter in translator.model.named_parameters():
        if parameter.requires_grad:  # LoRA answers in the type of its base
            assert parameter.dtype == (torch.bfloat16 if is_lora(name) else torch.float32)
    data = {"train": stage1.data.train, "validation": stage1.data.train}
    steps = {
        "max_steps": 1,
        "eval_steps": 1,
        "save_steps": 1,
        "warmup_steps": 1,
        "per_device_train_batch_size": 3,
    }
    shared = {"init": start, "data": data, "train": steps, "dtype": "bfloat16"}
    align(AlignSettings.of({"output": str(tmp_path / "align"), **shared}))
    pretrain(PretrainSettings.of({"output": str(tmp_path / "pretrain"), **shared}))
    joint(tiny.joint_settings(tmp_path, start).model_copy(update={"dtype": "bfloat16"}))
    manifests = list(stage1.data.train)
    probe = {"output": str(tmp_path / "select"), "model": start, "data": manifests, "num_pairs": 4}
    select(SelectSettings.of({**probe, "dtype": "bfloat16"}))
    scored = {"output": str(tmp_path / "scored"), "model": start, "data": manifests, "limit": 2}
    evaluate(EvaluateSettings.of({**scored, "generation": {"max_new_tokens": 2}, "dtype": "bfloat16"}))
    assert loaded == [torch.bfloat16] * 6
