"""A user's own manifest, own Whisper and an LLM of another class, through every verb; no code touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from aista.cli import main as cli
from aista.errors import AistaError
from tests import tiny

QFORMER = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
STEPS = {
    "max_steps": 2, "per_device_train_batch_size": 3, "save_steps": 2, "logging_steps": 1, "warmup_steps": 1,
}  # fmt: skip


def run(*arguments: str) -> str:
    if not cli.app.registered_groups:
        cli._add_verbs()
    result = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=True)
    if isinstance(result.exception, AistaError):
        raise result.exception
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.stdout


def config(folder: Path, name: str, values: dict[str, object]) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("template", ["vicuna", "plain"])
def test_every_verb_with_a_llama(tmp_path: Path, template: str) -> None:
    asr, st = tiny.manifest(tmp_path / "asr.jsonl", task="asr"), tiny.manifest(tmp_path / "st.jsonl")
    model = {
        "speech_encoder": str(tiny.whisper(tmp_path / "my_whisper")),
        "backbone": str(tiny.language_model(tmp_path / "my_llama", kind="llama", layers=2)),
        "qformer": QFORMER, "template": template,
    }  # fmt: skip
    stage1, joint, layers = (str(tmp_path / name) for name in ("stage1", "joint", "layers"))
    pretrain = {"output": stage1, "model": model, "data": {"train": [str(asr)]}, "train": STEPS}
    run("pretrain", "--config", config(tmp_path, "pretrain", pretrain), "--set", "train.max_steps=1")
    select = {"output": layers, "model": stage1, "data": [str(asr)], "num_pairs": 6, "threshold": 0.0}
    assert "selected [0, 1, 2]" in run("select", "--config", config(tmp_path, "select", select))
    stage3 = {
        "output": joint, "init": stage1, "alignment": {"layers": f"{layers}/layers.json"},
        "data": {"train": [str(st)], "validation": [str(st)]}, "train": {**STEPS, "eval_steps": 2},
    }  # fmt: skip
    assert "2 steps" in run("joint", "--config", config(tmp_path, "joint", stage3))
    evaluate = {
        "output": str(tmp_path / "scores"), "model": joint, "data": [str(st)], "limit": 3,
        "generation": {"max_new_tokens": 4},
    }  # fmt: skip
    run("evaluate", "--config", config(tmp_path, "evaluate", evaluate))
    scores = json.loads((tmp_path / "scores/results.json").read_text())["scores"]
    assert {"bleu_zh", "mt_bleu_zh", "token_accuracy", "log_wasserstein"} <= scores.keys()
    told = json.loads(
        run(
            "translate", str(tmp_path / "st_3.wav"), "--to", "zh", "--model", joint, "--output-format", "json"
        )
    )
    assert "text" in (told[0] if isinstance(told, list) else told)
    with pytest.raises(AistaError, match="en-zh"):
        run("translate", str(tmp_path / "st_3.wav"), "--to", "ja", "--model", joint)
