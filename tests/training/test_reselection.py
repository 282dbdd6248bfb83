"""Layers chosen again while training: what `aista select` would choose, and the same after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aista.config import PretrainSettings, SelectSettings
from aista.errors import ConfigError, ManifestError
from aista.selection.select import select
from aista.training.joint import joint
from aista.training.pretrain import pretrain
from aista.training.reselection import CHOICES, Reselection
from aista.training.run import Interrupted
from tests import tiny
from tests.training.interrupting import interrupted_after


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(tiny.pretrain_settings(tmp_path_factory.mktemp("stage1"), max_steps=2)).folder


def settings(folder: Path, stage1: Path, name: str = "joint", **changes: object):
    reselect = {"every_steps": 1, "num_pairs": 6, "threshold_times_chance": 1.0, **changes}
    return tiny.joint_settings(
        folder, str(stage1), output=str(folder / name), alignment={"layers": [0, 1], "reselect": reselect}
    )


def choices(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / CHOICES).read_text().splitlines()]


def test_it_measures_what_layer_selection_measures(stage1: Path, tmp_path: Path, monkeypatch) -> None:
    chosen = settings(tmp_path, stage1)
    seen: list[list[float]] = []
    begin = Reselection.on_train_begin

    def look(self, *args, **rest) -> None:  # type: ignore[no-untyped-def]
        begin(self, *args, **rest)
        random, mode = torch.random.get_rng_state(), self.objective.model.training
        seen.append(self.mrr_by_layer())
        assert torch.equal(random, torch.random.get_rng_state())
        assert self.objective.model.training == mode

    monkeypatch.setattr(Reselection, "on_train_begin", look)
    joint(chosen)
    values = {
        "output": str(tmp_path / "select"), "model": str(stage1), "data": chosen.data.train,
        "num_pairs": 6, "seed": chosen.seed, "threshold_times_chance": 1.0,
    }  # fmt: skip
    assert seen[0] == pytest.approx(select(SelectSettings.of(values)).mrr_by_layer)


def test_the_layers_change_and_a_stopped_run_goes_on_the_same(
    stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turns(self: Reselection) -> list[float]:
        step = len(choices(tmp_path / name)) if (tmp_path / name / CHOICES).exists() else 0
        return [1.0, 0.0, 0.0] if step % 2 else [0.0, 0.0, 1.0]

    monkeypatch.setattr(Reselection, "mrr_by_layer", turns)
    name = "whole"
    whole = joint(settings(tmp_path, stage1, name)).folder
    assert [row["layers"] for row in choices(whole)] == [[2], [0], [2]]  # none after the last step
    parts = json.loads((whole / "history.json").read_text())
    aligned = [{k for k in row if k.startswith("wasserstein_")} for row in parts if "ce" in row]
    assert aligned == [
        {"wasserstein_0", "wasserstein_1"}, {"wasserstein_2"}, {"wasserstein_0"}, {"wasserstein_2"},
    ]  # fmt: skip
    name = "parts"
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupted_after(3, patch)
        joint(settings(tmp_path, stage1, name))
    parts_folder = joint(settings(tmp_path, stage1, name)).folder
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, parts_folder))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert choices(whole) == choices(parts_folder)


def test_where_no_layer_passes_those_before_stay(stage1: Path, tmp_path: Path) -> None:
    folder = joint(settings(tmp_path, stage1, threshold_times_chance=100.0)).folder
    assert [row["layers"] for row in choices(folder)] == [[0, 1]] * 3


def test_what_cannot_be_chosen_again_is_said(stage1: Path, tmp_path: Path) -> None:
    fixed = settings(tmp_path, stage1)
    fixed = fixed.model_copy(update={"alignment": fixed.alignment.model_copy(update={"method": "none"})})
    with pytest.raises(ConfigError, match="can be chosen"):
        joint(fixed)
    with pytest.raises(ManifestError, match="Not enough"):
        joint(settings(tmp_path, stage1, "many", num_pairs=500))


def test_stage_1_can_be_aligned_too(tmp_path: Path) -> None:
    plain = tiny.pretrain_settings(tmp_path, max_steps=2)
    values = plain.model_dump() | {"output": str(tmp_path / "aligned"), "alignment": {"layers": [0, 2]}}
    folder = pretrain(PretrainSettings.of(values)).folder
    rows = [row for row in json.loads((folder / "history.json").read_text()) if "ce" in row]
    assert all(row["wasserstein_0"] > 0 and row["wasserstein_2"] > 0 for row in rows)
    one, other = (load_file(path / "model.safetensors") for path in (pretrain(plain).folder, folder))
    assert any(not torch.equal(one[key], other[key]) for key in one)
