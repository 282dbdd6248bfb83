"""A method's own parameters train in two processes as they do in one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aista.config import JointSettings
from aista.training.stages import joint
from tests.engines import stages
from tests.engines.launch import run, torchrun


def written(folder: Path, init: Path, name: str, alignment: dict[str, Any]) -> tuple[Path, JointSettings]:
    path, settings = stages.joint_yaml(folder, init, name, learning_rate=1e-3)
    values = settings.model_dump() | {"alignment": {"layers": [0], **alignment}}
    values["data"]["train"] = [str(short_texts(Path(settings.data.train[0])))]
    settings = JointSettings.of(values)
    settings.save(path)
    return path, settings


def short_texts(manifest: Path) -> Path:
    """The same sounds with transcripts of a byte or two: CTC needs no fewer windows than tokens."""
    rows = [json.loads(line) for line in manifest.read_text().strip().split("\n")]
    short = manifest.with_name(f"short_{manifest.name}")
    short.write_text(
        "".join(json.dumps(row | {"text": "ab"[: 1 + i % 2]}) + "\n" for i, row in enumerate(rows))
    )
    return short


def compare(folder: Path, alignment: dict[str, Any], part: str) -> None:
    init = stages.stage1(folder)
    one = joint(written(folder, init, "one", alignment)[1]).folder
    path, settings = written(folder, init, "two", alignment)
    run(torchrun("joint", "--config", str(path)), {})
    logs = [
        [row[part] for row in json.loads((Path(output) / "history.json").read_text()) if part in row]
        for output in (one, settings.output)
    ]
    assert min(logs[0]) > 0 and logs[0] == pytest.approx(logs[1], rel=1e-4)
    own = [
        load_file(Path(output) / "checkpoints/checkpoint-4/objective.safetensors")
        for output in (one, settings.output)
    ]
    for name, tensor in own[0].items():
        torch.testing.assert_close(tensor, own[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_head_of_its_own_is_synchronised(tmp_path: Path) -> None:
    compare(tmp_path, {"method": "ctc", "alpha": 0.5}, "ctc_0")
