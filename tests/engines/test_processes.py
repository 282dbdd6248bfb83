"""Two processes under torchrun train what one process trains, write once, stop together, go on exactly."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from aista.errors import ConfigError
from aista.training.joint import joint
from tests.engines import stages
from tests.engines.launch import ROOT, environment, run, torchrun


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stages.stage1(tmp_path_factory.mktemp("stage1"))


@pytest.fixture(scope="module")
def alone(init: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The joint run by one process, which accumulates two micro-batches."""
    settings = stages.joint_yaml(tmp_path_factory.mktemp("alone"), init, "one")[1]
    return joint(settings).folder


def assert_same_run(one: Path, other: Path, tolerance: float = 2e-5) -> None:
    """Demand equal logs and weights, up to the order of sums in float32."""
    first, second = stages.history(one), stages.history(other)
    assert [row[:2] for row in first] == [row[:2] for row in second]
    assert [row[2] for row in first] == pytest.approx([row[2] for row in second], rel=tolerance)
    mine, theirs = stages.weights(one), stages.weights(other)
    assert mine.keys() == theirs.keys()
    # Adam turns the sign of a near-zero gradient into a full step: a few entries differ by some steps.
    far = sum(int((mine[n] - theirs[n]).abs().gt(1e-4).sum()) for n in mine)
    assert far <= 1e-3 * sum(t.numel() for t in mine.values()), far


def test_two_processes_equal_one(init: Path, alone: Path, tmp_path: Path) -> None:
    path, settings = stages.joint_yaml(tmp_path, init, "two")
    said = run(torchrun("joint", "--config", str(path)))
    assert_same_run(alone, Path(settings.output))
    assert said.count("steps in") == 1, said
    assert "5 steps in" not in said
    assert run(torchrun("joint", "--config", str(path))).count("4 steps in") == 1  # finished: not repeated


def test_accumulation_equals_one_batch(init: Path, alone: Path, tmp_path: Path) -> None:
    settings = stages.joint_yaml(tmp_path, init, "whole", per_device_train_batch_size=6)[1]
    assert_same_run(alone, joint(settings).folder)


def test_a_signal_to_one_process_stops_all_and_the_run_goes_on(
    init: Path, alone: Path, tmp_path: Path
) -> None:
    path, settings = stages.joint_yaml(tmp_path, init, "stopped")
    command = torchrun("joint", "--config", str(path))
    started = subprocess.Popen(
        command, env=environment() | {"AISTA_TEST_STOP": "1"}, cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        checkpoints = Path(settings.output) / "checkpoints"
        deadline = time.monotonic() + 90
        while not list(checkpoints.glob("checkpoint-2/COMPLETE")) and started.poll() is None:
            assert time.monotonic() < deadline, "no checkpoint in time"
            time.sleep(0.02)
        children = subprocess.run(
            ["pgrep", "-P", str(started.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        if children:
            subprocess.run(["kill", "-TERM", children[-1]], check=False)
        said, _ = started.communicate(timeout=60)
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGKILL)
    if not (Path(settings.output) / "training.json").exists():
        assert "nothing is lost" in said, said[-3000:]
        run(torchrun("joint", "--config", str(path)))
    assert_same_run(alone, Path(settings.output))


def test_a_global_batch_that_cannot_be_shared(
    init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aista.training.trainer import accumulation

    settings = stages.joint_yaml(tmp_path, init, "odd")[1].train
    assert accumulation(settings) == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert accumulation(settings) == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="multiple of 12"):
        accumulation(settings)


def test_weights_are_whole_and_trained(alone: Path, init: Path) -> None:
    before, after = stages.weights(init), stages.weights(alone)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
