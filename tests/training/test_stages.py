"""The three stages, whole: what trains and what must not, resumption bit for bit, the sides of Eq. 6."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aista.config import JointSettings, PretrainSettings
from aista.data.manifest import Manifest, write_manifest
from aista.errors import ConfigError
from aista.model.speech_lm import AistaForConditionalGeneration
from aista.training import stages as run_module
from aista.training.optimisation import learning_rate
from aista.training.stages import joint, pretrain
from tests import tiny
from tests.training.interrupting import interrupted_after


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    return load_file(next(Path(folder).glob("*.safetensors")))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage1")
    return pretrain(tiny.pretrain_settings(folder)).folder


def test_stage1_changes_the_adapters_and_leaves_the_bases(stage1: Path) -> None:
    model = AistaForConditionalGeneration.from_pretrained(stage1)
    settings = PretrainSettings.load(stage1 / "settings.yaml")
    fresh = run_fresh(settings)
    assert model.trainable_state_dict().keys() == fresh.trainable_state_dict().keys()
    changed = [
        n
        for n, t in model.trainable_state_dict().items()
        if not torch.equal(t, fresh.trainable_state_dict()[n])
    ]
    assert any("lora_B" in name for name in changed) and any("projection" in name for name in changed)
    frozen = {n: t for n, t in fresh.state_dict().items() if n not in fresh.trainable_state_dict()}
    assert frozen and all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in frozen.items())


def run_fresh(settings: PretrainSettings) -> AistaForConditionalGeneration:
    from aista.training.stages import fresh_model

    return fresh_model(settings.model, settings.seed)[0]


def test_a_finished_run_is_complete_and_is_not_repeated(stage1: Path) -> None:
    settings = PretrainSettings.load(stage1 / "settings.yaml")
    before = (stage1 / "training.json").stat().st_mtime_ns
    again = pretrain(settings)
    assert again.steps == 4 and (stage1 / "training.json").stat().st_mtime_ns == before
    history = json.loads((stage1 / "history.json").read_text())
    assert [row["step"] for row in history if "ce" in row] == [1, 2, 3, 4]
    rates = [row["learning_rate"] for row in history if "ce" in row]
    assert rates == [learning_rate(step, settings.train) for step in range(4)]  # by which they moved
    with pytest.raises(ConfigError, match="other settings"):
        pretrain(settings.model_copy(update={"seed": 99}))


@pytest.mark.parametrize(
    "step", [3, pytest.param(4, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)]
)
def test_resumed_equals_uninterrupted(
    stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    train = {"max_steps": 7, "eval_steps": 2, "save_steps": 2, "patience": 4}
    whole = joint(tiny.joint_settings(tmp_path, str(stage1), output=str(tmp_path / "whole"), train=train))
    settings = tiny.joint_settings(tmp_path, str(stage1), output=str(tmp_path / "parts"), train=train)
    with monkeypatch.context() as patch:
        interrupted_after(step, patch)
        with pytest.raises(run_module.Interrupted, match="nothing is lost"):
            joint(settings)
    assert not (tmp_path / "parts" / run_module.FINISHED).exists()
    resumed = joint(settings)
    assert equal(weights(resumed.folder), weights(whole.folder))
    assert resumed.best_token_accuracy == whole.best_token_accuracy
    keys = ("ce", "wasserstein_0", "eval_token_accuracy", "learning_rate")
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "parts")]
    shown = [
        [(row["step"], key, row[key]) for row in history for key in keys if key in row]
        for history in histories
    ]
    assert shown[0] == shown[1]
    assert [step for step, key, _ in shown[0] if key == "eval_token_accuracy"] == [2, 4, 6, 7]  # and the last
    model = AistaForConditionalGeneration.from_pretrained(resumed.folder)
    assert model.config.directions == ["en-en", "en-zh"]  # of both stages


@pytest.mark.slow
def test_who_learns_captions_does_not_say_that_it_transcribes(tmp_path: Path) -> None:
    settings = tiny.pretrain_settings(tmp_path, max_steps=1, save_steps=1)
    (path,) = settings.data.train
    write_manifest(path, [row.model_copy(update={"task": "aac"}) for row in list(Manifest(path))])
    folder = pretrain(settings).folder
    assert AistaForConditionalGeneration.from_pretrained(folder).config.directions == []


def test_a_half_written_checkpoint_is_not_resumed_from(
    stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny.joint_settings(tmp_path, str(stage1))
    with monkeypatch.context() as patch:
        interrupted_after(2, patch)
        with pytest.raises(run_module.Interrupted):
            joint(settings)
    torn = tmp_path / "joint/checkpoints/checkpoint-3"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    assert joint(settings).steps == 4 and not torn.exists()


@pytest.mark.slow
def test_alpha_one_equals_no_alignment(stage1: Path, tmp_path: Path) -> None:
    results = {}
    for name, alignment in {
        "none": {"method": "none"},
        "one": {"layers": [0, 1], "alpha": 1.0},
        "ot": {"layers": [0, 1], "alpha": 0.5},
    }.items():
        settings = tiny.joint_settings(
            tmp_path, str(stage1), output=str(tmp_path / name), alignment=alignment
        )
        results[name] = weights(joint(settings).folder)
    assert equal(results["none"], results["one"])
    assert not equal(results["none"], results["ot"])


@pytest.mark.slow
def test_alignment_draws_speech_towards_text(stage1: Path, tmp_path: Path) -> None:
    train = {
        "max_steps": 30,
        "eval_steps": 30,
        "save_steps": 30,
        "learning_rate": 5e-3,
        "min_learning_rate": 5e-3,
    }
    settings = tiny.joint_settings(
        tmp_path, str(stage1), train=train, alignment={"layers": [0], "alpha": 0.1}
    )
    history = json.loads((joint(settings).folder / "history.json").read_text())
    distances = [row["wasserstein_0"] for row in history if "wasserstein_0" in row]
    assert sum(distances[-5:]) < 0.8 * sum(distances[:5])


@pytest.mark.slow
def test_cached_features_train_like_audio(stage1: Path, tmp_path: Path) -> None:
    settings = tiny.joint_settings(tmp_path, str(stage1), output=str(tmp_path / "audio"))
    cached = settings.model_dump() | {"output": str(tmp_path / "cached")}
    cached["data"]["features"] = str(tmp_path / "features")
    histories = []
    for each in (settings, JointSettings.of(cached)):
        history = json.loads((joint(each).folder / "history.json").read_text())
        histories.append([row["ce"] for row in history if "ce" in row])
    assert histories[0] == pytest.approx(histories[1], rel=2e-3)


@pytest.mark.parametrize(
    ("layers", "message"), [([], "No layer"), ([9], "no layer"), ("missing.json", "layer report")]
)
def test_layers_that_cannot_be_aligned(stage1: Path, tmp_path: Path, layers: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        joint(tiny.joint_settings(tmp_path, str(stage1), alignment={"layers": layers}))
