"""A tiny stage-1 model without dropout, and settings of a joint run on it: what engines are compared on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from aista.config import JointSettings, PretrainSettings
from aista.training.stages import pretrain
from tests import tiny

# Dropout draws its masks by process: without it, any number of processes computes the same.
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def stage1(folder: Path, beats: bool = False) -> Path:
    """Train a stage-1 model for a step, with one or with two encoders."""
    values = tiny.pretrain_settings(folder, max_steps=1).model_dump()
    values["model"]["audio_encoder"] = "aista:beats" if beats else None
    values["model"]["qformer"] |= NO_DROPOUT
    values["model"]["lora"]["dropout"] = 0.0
    return pretrain(PretrainSettings.of(values)).folder


def joint_yaml(folder: Path, init: Path, name: str, **train: Any) -> tuple[Path, JointSettings]:
    """Write the settings of a joint run: 12 rows, 6 a step, 5 rows to validate on, one at a time."""
    steps = {
        "max_steps": 4, "global_batch_size": 6, "per_device_train_batch_size": 3, "eval_steps": 2,
        "save_steps": 2, "logging_steps": 1, "per_device_eval_batch_size": 1, "learning_rate": 5e-3,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    settings = tiny.joint_settings(folder, str(init), output=str(folder / name), train={**steps, **train})
    tiny.manifest(folder / "dev.jsonl", count=5)
    path = folder / f"{name}.yaml"
    settings.save(path)
    return path, settings


def history(output: str | Path) -> list[tuple[int, str, float]]:
    """Every loss and accuracy that a run logged."""
    rows = json.loads((Path(output) / "history.json").read_text())
    named = ("ce", "wasserstein_0", "wasserstein_1", "eval_token_accuracy", "eval_loss", "learning_rate")
    return [(row["step"], name, row[name]) for row in rows for name in named if name in row]


def weights(output: str | Path) -> dict[str, Tensor]:
    """The trained tensors of a finished run."""
    return load_file(Path(output) / "model.safetensors")
