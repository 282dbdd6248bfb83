"""Several processes train and select what one does, write once, stop together, go on exactly; sharded or not.

One torchrun of two processes (CPU, gloo) does everything that is looked at here; see ``drive.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aista.config import JointSettings, SelectSettings
from aista.data.manifest import Manifest, write_manifest
from aista.errors import ConfigError
from aista.selection.select import LayerReport, select
from aista.training.objective import Joint, SpeechTextObjective
from aista.training.optimisation import accumulation
from aista.training.stages import joint
from tests import tiny
from tests.engines import stages
from tests.engines.launch import launcher_environment, run, torchrun

HALF = {"precision": "bf16", "max_steps": 2}


def selection(folder: Path, init: Path, name: str) -> Path:
    """Write the settings of a selection of 11 pairs from cached features."""
    path = folder / f"{name}.yaml"
    SelectSettings.of(
        {
            "model": str(init), "data": [str(init.parent / "asr.jsonl")], "num_pairs": 11, "batch_size": 3,
            "output": str(folder / name), "features": str(folder / f"features_{name}"),
        }
    ).save(path)  # fmt: skip
    return path


def beside_texts(folder: Path, init: Path, name: str, **train: Any) -> tuple[Path, JointSettings]:
    """Settings of three steps, one of them of texts alone: those are longer than any sound."""
    path, settings = stages.joint_yaml(folder, init, name, max_steps=3, **train)
    texts = tiny.texts(folder / "texts.jsonl")
    write_manifest(texts, [row.model_copy(update={"text": row.text * 5}) for row in Manifest(texts)])
    values = settings.model_dump()
    values["data"]["train"].append(str(texts))
    settings = JointSettings.of(values)
    settings.save(path)
    return path, settings


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stages.stage1(tmp_path_factory.mktemp("stage1"))


@pytest.fixture(scope="module")
def alone(init: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process's runs; the joint one accumulates two micro-batches."""
    torch.set_num_threads(1)  # as torchrun has it
    folder = tmp_path_factory.mktemp("alone")
    joint(stages.joint_yaml(folder, init, "joint")[1])
    select(SelectSettings.load(selection(folder, init, "select")))
    return folder


@pytest.fixture(scope="module")
def with_beats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stages.stage1(tmp_path_factory.mktemp("beats"), beats=True)


@pytest.fixture(scope="module")
def shared(init: Path, with_beats: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Two processes' runs, and what they said."""
    folder = tmp_path_factory.mktemp("shared")
    plain, sharded = (stages.joint_yaml(folder, init, name)[0] for name in ("joint", "sharded"))
    half = stages.joint_yaml(folder, with_beats, "half", **HALF)[0]
    jobs = [
        "failed=", f"stopped={plain}", f"joint={plain}", f"joint={plain}",
        f"select={selection(folder, init, 'select')}",
        *(f"poisoned={beside_texts(folder, init, how, nonfinite=how)[0]}" for how in ("skip", "stop")),
        f"fsdp2:joint={sharded}", f"fsdp2:cut={sharded}", f"fsdp2:joint={sharded}", f"fsdp2:joint={half}",
    ]  # fmt: skip
    fsdp2 = launcher_environment("fsdp2").items()
    engines = {"fsdp2": {name: value for name, value in fsdp2 if name.startswith(("FSDP_", "ACCELERATE_"))}}
    command = torchrun(*jobs, module="tests.engines.drive")
    return folder, run(command, {"ENGINES": json.dumps(engines)})


def assert_same_run(one: Path, other: Path, tolerance: float = 2e-5) -> None:
    """Demand equal logs and weights, up to the order of sums."""
    first, second = stages.history(one), stages.history(other)
    assert [row[:2] for row in first] == [row[:2] for row in second]
    assert [row[2] for row in first] == pytest.approx([row[2] for row in second], rel=tolerance)
    mine, theirs = stages.weights(one), stages.weights(other)
    assert mine.keys() == theirs.keys()
    # Adam turns the sign of a near-zero gradient into a full step: a few entries may differ by some steps.
    far = sum(int((mine[n] - theirs[n]).abs().gt(10 * tolerance).sum()) for n in mine)
    assert far <= 1e-3 * sum(t.numel() for t in mine.values()), far


@pytest.mark.slow
def test_two_processes_train_what_one_does(alone: Path, shared: tuple[Path, str]) -> None:
    assert_same_run(alone / "joint", shared[0] / "joint")


@pytest.mark.slow
def test_one_process_speaks_and_a_finished_run_is_not_repeated(shared: tuple[Path, str]) -> None:
    said = [line for line in shared[1].splitlines() if line.startswith("joint: 4 steps")]
    trained, read = (float(line.split()[3]) for line in said)
    assert abs(read - trained) < 0.051, said  # training.json has it to one digit: nothing was trained again


@pytest.mark.slow
def test_two_processes_select_what_one_does(alone: Path, shared: tuple[Path, str]) -> None:
    """Ranks, distances and chosen layers are equal to the last bit; the cache is filled by one of them."""
    one, two = (LayerReport.load(folder / "select/layers.json") for folder in (alone, shared[0]))
    assert two.selected == one.selected
    rows = [[row.model_dump(exclude={"seconds"}) for row in report.rows] for report in (one, two)]
    assert rows[0] == rows[1]
    stored = [(f / "features_select/features.bin").read_bytes() for f in (alone, shared[0])]
    assert stored[0] == stored[1]
    assert not (shared[0] / "select/states").exists()


@pytest.mark.slow
def test_a_sharded_model_trains_what_a_whole_one_does(alone: Path, shared: tuple[Path, str]) -> None:
    assert_same_run(alone / "joint", shared[0] / "sharded_whole")


@pytest.mark.slow
def test_a_sharded_run_goes_on_to_the_last_bit(shared: tuple[Path, str]) -> None:
    whole, resumed = (stages.weights(shared[0] / name) for name in ("sharded_whole", "sharded"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert stages.history(shared[0] / "sharded_whole") == stages.history(shared[0] / "sharded")


@pytest.mark.slow
def test_a_sharded_checkpoint_holds_nothing_of_the_bases(shared: tuple[Path, str]) -> None:
    folder = shared[0] / "sharded/checkpoints/checkpoint-4"
    trained = sum(tensor.numel() for tensor in stages.weights(folder).values())
    assert {path.name for path in folder.iterdir()} >= {"model.safetensors", "optimizer.bin", "COMPLETE"}
    largest = max(path.stat().st_size for path in folder.iterdir())
    assert largest < 4 * 2 * trained + 100_000  # two moments in float32, and their names


@pytest.mark.slow
def test_sharding_changes_no_types(shared: tuple[Path, str], with_beats: Path, tmp_path: Path) -> None:
    """bfloat16 by autocast, BEATs and what is trained in float32: with FSDP2 as without."""
    settings = stages.joint_yaml(tmp_path, with_beats, "half", **HALF)[1]
    assert_same_run(joint(settings).folder, shared[0] / "half", tolerance=2e-3)


@pytest.mark.slow
def test_accumulation_equals_one_batch(init: Path, alone: Path, tmp_path: Path) -> None:
    settings = stages.joint_yaml(tmp_path, init, "whole", per_device_train_batch_size=6)[1]
    assert_same_run(alone / "joint", joint(settings).folder)


@pytest.mark.slow
def test_a_loss_of_nan_in_one_process_is_everybodys(
    init: Path, shared: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a micro-batch of texts, which uses no part that hears: the step is left out, or ends the run."""
    forward = SpeechTextObjective.forward

    def poison(self: SpeechTextObjective, **batch: Any) -> Joint:
        found = forward(self, **batch)
        spoilt = self.training and batch["text"] is None
        return found._replace(loss=found.loss * float("nan")) if spoilt else found

    monkeypatch.setattr(SpeechTextObjective, "forward", poison)
    train = {"nonfinite": "skip", "per_device_train_batch_size": 6}
    assert_same_run(joint(beside_texts(tmp_path, init, "skip", **train)[1]).folder, shared[0] / "skip")
    (row,) = json.loads((shared[0] / "skip/1_nonfinite_batch.json").read_text())
    assert len(row["utterances"]) == 3 and all(name.startswith("t") for name in row["utterances"])
    said = f"The loss is not finite at step {row['step']}. nan for {', '.join(row['utterances'])}"
    assert shared[1].count(f"poisoned: {said}") == 2  # by both of them


def test_a_global_batch_that_cannot_be_shared(
    init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = stages.joint_yaml(tmp_path, init, "odd")[1].train
    assert accumulation(settings) == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert accumulation(settings) == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="multiple of 12"):
        accumulation(settings)


@pytest.mark.slow
def test_when_the_one_that_works_fails_nobody_waits_for_ever(shared: tuple[Path, str]) -> None:
    assert "failed: FileNotFoundError SystemExit" in shared[1]


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_the_run_goes_on(alone: Path, shared: tuple[Path, str]) -> None:
    """The second process alone gets a SIGTERM after step 1; then the same command is given again."""
    (line,) = [line for line in shared[1].splitlines() if line.startswith("stopped:")]
    assert line.count("Stopped at step 1 of 4") == 2, line
    assert_same_run(alone / "joint", shared[0] / "joint")


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_with_one(alone: Path, shared: tuple[Path, str]) -> None:
    settings = JointSettings.load(shared[0] / "joint_stopped/settings.yaml")
    assert_same_run(alone / "joint", joint(settings).folder)
