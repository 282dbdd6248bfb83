"""Settings: nothing unknown, nothing ignored, the same after a save and a load."""

from __future__ import annotations

from pathlib import Path

import pytest

from aista.config import JointSettings, PretrainSettings, SelectSettings, TrainSettings
from aista.errors import ConfigError

MINIMAL = {"output": "o", "model": {"speech_encoder": "w", "backbone": "b"}, "data": {"train": ["m.jsonl"]}}


def test_defaults_are_the_papers() -> None:
    train = PretrainSettings.of(MINIMAL).train
    assert (train.max_steps, train.warmup_steps, train.weight_decay) == (80_000, 9_000, 0.05)
    assert (train.learning_rate, train.warmup_start_learning_rate, train.min_learning_rate) == (
        3e-5,
        1e-6,
        1e-5,
    )
    lora = PretrainSettings.of(MINIMAL).model.lora
    assert (lora.r, lora.alpha, lora.dropout) == (8, 32, 0.1)
    joint = JointSettings.of({"output": "o", "init": "i", "data": {"train": ["m"]}})
    assert (joint.alignment.alpha, joint.train.patience, joint.train.eval_steps) == (0.99, 4, 3_000)
    assert SelectSettings.of({"output": "o", "model": "m", "data": ["d"]}).threshold == 0.05


def test_save_and_load_give_equal_settings(tmp_path: Path) -> None:
    settings = PretrainSettings.of(MINIMAL)
    settings.save(tmp_path / "s.yaml")
    again = PretrainSettings.load(tmp_path / "s.yaml")
    assert again == settings and again.sha256() == settings.sha256()


def test_overrides_reach_nested_settings(tmp_path: Path) -> None:
    PretrainSettings.of(MINIMAL).save(tmp_path / "s.yaml")
    changed = PretrainSettings.load(tmp_path / "s.yaml", ["train.max_steps=7", "model.lora.targets=[a, b]"])
    assert changed.train.max_steps == 7 and changed.model.lora.targets == ["a", "b"]


def test_settings_of_older_runs_load_where_their_retired_keys_say_what_is_left() -> None:
    joint = {"output": "o", "init": "i", "data": {"train": ["m"]}}
    older = {"alpha": 0.9, "balance": "fixed", "ratio": 0.3, "alpha_end": None, "reselect": None}
    assert JointSettings.of(joint | {"alignment": older}) == JointSettings.of(
        joint | {"alignment": {"alpha": 0.9}}
    )
    for name, value in (
        ("balance", "gradient_ratio"),
        ("alpha_end", 1.0),
        ("reselect", {"every_steps": 5}),
    ):
        with pytest.raises(ConfigError, match=f"{name} is gone"):
            JointSettings.of(joint | {"alignment": older | {name: value}})


@pytest.mark.parametrize(
    "override", ["train.max_stepz=7", "trian.max_steps=7", "train.max_steps=many", "nonsense"]
)
def test_what_is_unknown_or_wrong_is_named(tmp_path: Path, override: str) -> None:
    PretrainSettings.of(MINIMAL).save(tmp_path / "s.yaml")
    with pytest.raises(ConfigError) as error:
        PretrainSettings.load(tmp_path / "s.yaml", [override])
    assert override.split("=")[0].split(".")[-1] in str(error.value) or "trian" in str(error.value)


def test_unreadable_files_are_config_errors(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [1")
    (tmp_path / "list.yaml").write_text("- 1")
    for name in ("missing.yaml", "bad.yaml", "list.yaml"):
        with pytest.raises(ConfigError):
            PretrainSettings.load(tmp_path / name)


def test_patience_without_validation_is_refused() -> None:
    with pytest.raises(ConfigError, match="eval_steps"):
        TrainSettings.of({"patience": 4})
    with pytest.raises(ConfigError, match="multiple"):
        TrainSettings.of({"eval_steps": 300, "save_steps": 1_000})
