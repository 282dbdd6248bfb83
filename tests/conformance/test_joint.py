"""Every alignment method, trained through ``joint``: it stops and goes on, and alpha = 1 is no alignment."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import aista.alignment
from aista.alignment import method, names
from aista.errors import ConfigError, TrainingError
from aista.model.speech_lm import AistaForConditionalGeneration
from aista.training.stages import Interrupted, joint, pretrain
from tests import tiny
from tests.training.interrupting import interrupted_after

GUIDE = Path(__file__).parents[2] / "docs/guides/alignment-methods.md"
ONE_FILE = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)[0]
TWO_STEPS = {"max_steps": 2, "eval_steps": None, "patience": None, "save_steps": 2}


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = tiny.pretrain_settings(tmp_path_factory.mktemp("stage1"), max_steps=1)
    return pretrain(settings).folder


def run(
    stage1: Path, folder: Path, output: str, train: dict | None = None, **alignment: object
) -> tuple[dict[str, torch.Tensor], list[dict]]:
    settings = tiny.joint_settings(
        folder,
        str(stage1),
        output=str(folder / output),
        alignment={"layers": [0, 1], **alignment},
        train=train or {},
    )
    finished = joint(settings).folder
    return load_file(finished / "model.safetensors"), json.loads((finished / "history.json").read_text())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in names() if name != "none"])
def test_a_method_trains_and_goes_on_where_it_stopped(
    name: str, stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alignment = {"method": name, "alpha": 0.5}
    whole, history = run(stage1, tmp_path, "whole", **alignment)
    steps = [row for row in history if "ce" in row]
    parts = [key for key in steps[0] if key.startswith(name)]
    assert [row["step"] for row in steps] == [1, 2, 3, 4] and parts
    assert all(row[part] >= 0 for row in steps for part in parts)
    with monkeypatch.context() as patch:
        interrupted_after(3, patch)
        with pytest.raises(Interrupted):
            run(stage1, tmp_path, "parts", **alignment)
    resumed, again = run(stage1, tmp_path, "parts", **alignment)
    assert same(resumed, whole)
    keys = ("ce", "loss", *parts)
    assert [[row[key] for key in keys] for row in again if "ce" in row] == [
        [row[key] for key in keys] for row in steps
    ]


@pytest.mark.slow
def test_with_alpha_one_every_method_is_the_base(stage1: Path, tmp_path: Path) -> None:
    base, _ = run(stage1, tmp_path, "none", TWO_STEPS, method="none")
    for name in names():
        assert same(run(stage1, tmp_path, f"one_{name}", TWO_STEPS, method=name, alpha=1.0)[0], base), name
    assert not same(run(stage1, tmp_path, "half", TWO_STEPS, method="distillation", alpha=0.5)[0], base)


@pytest.mark.slow
def test_a_methods_own_parameters_are_kept_in_checkpoints_alone(stage1: Path, tmp_path: Path) -> None:
    run(stage1, tmp_path, "ctc", method="ctc", alpha=0.5)
    checkpoints = sorted((tmp_path / "ctc/checkpoints").glob("checkpoint-*"))
    heads = [load_file(folder / "objective.safetensors") for folder in checkpoints]
    vocabulary = AistaForConditionalGeneration.from_pretrained(stage1).get_input_embeddings().num_embeddings
    assert heads[0]["alignment.head.weight"].shape == (vocabulary + 1, 32)
    assert not same(heads[0], heads[-1])  # it is trained
    assert not (tmp_path / "ctc/objective.safetensors").exists()
    for folder in checkpoints:
        (folder / "objective.safetensors").unlink()
    (tmp_path / "ctc/training.json").unlink()
    with pytest.raises(TrainingError, match=r"objective\.safetensors was changed or is gone"):
        run(stage1, tmp_path, "ctc", method="ctc", alpha=0.5)


@pytest.mark.slow
def test_the_frozen_teacher_is_the_backbone_without_lora(stage1: Path, tmp_path: Path) -> None:
    options = {"method": "distillation", "alpha": 0.5}
    same_teacher, history = run(stage1, tmp_path, "same", TWO_STEPS, **options)
    frozen, other = run(stage1, tmp_path, "frozen", TWO_STEPS, **options, options={"teacher": "frozen"})
    assert not same(same_teacher, frozen)
    assert history[0]["ce"] == other[0]["ce"] and history[0]["distillation"] != other[0]["distillation"]


@pytest.mark.parametrize("place", ["dotted", "dropped"])
def test_a_new_method_is_one_file(
    place: str, stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "third"
    folder.mkdir()
    if place == "dotted":
        (folder / "lengths_package").mkdir()
        (folder / "lengths_package/lengths.py").write_text(ONE_FILE)
        monkeypatch.syspath_prepend(str(folder))
        name = "lengths_package.lengths"
    else:
        (folder / "lengths.py").write_text(ONE_FILE)
        monkeypatch.setattr(aista.alignment, "__path__", [*aista.alignment.__path__, str(folder)])
        name = "lengths"
        assert name in names()
    _, history = run(stage1, tmp_path, place, TWO_STEPS, method=name, alpha=0.5, options={"wanted": 2.0})
    assert all(history[0][f"lengths_{layer}"] > 0 for layer in (0, 1))
    for module in [module for module in sys.modules if module.endswith("lengths")]:
        monkeypatch.delitem(sys.modules, module)


def test_what_no_method_understands() -> None:
    with pytest.raises(ConfigError, match="There is no alignment method"):
        method("telepathy")
    with pytest.raises(ConfigError, match="sizes"):
        aista.alignment.alignment("ctc", (0,))
    with pytest.raises(ConfigError, match="does not take these options"):
        aista.alignment.alignment("contrastive", (0,), margin=1)
