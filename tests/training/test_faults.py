"""kill -9, SIGTERM, full disks and losses that are not finite: nothing is lost, and the words are clear."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aista.errors import ConfigError, TrainingError
from aista.training import checkpointing
from aista.training import stages as run_module
from aista.training.checkpointing import COMPLETE, complete, last_checkpoint
from aista.training.objective import Joint, SpeechTextObjective
from aista.training.stages import joint, pretrain
from tests import tiny
from tests.training.victim import live

NO_VALIDATION = {"eval_steps": None, "patience": None}
KEYS = ("ce", "wasserstein_0", "token_accuracy", "eval_token_accuracy", "learning_rate")


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(tiny.pretrain_settings(tmp_path_factory.mktemp("stage1"))).folder


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def curve(folder: Path | str) -> list[tuple]:
    rows = json.loads((Path(folder) / "history.json").read_text())
    return [(row["step"], key, row[key]) for row in rows for key in KEYS if key in row]


def settings_in(folder: Path, stage: str, stage1: Path) -> dict[str, Any]:
    if stage == "pretrain":
        return tiny.pretrain_settings(folder, max_steps=5).model_dump()
    train = {"max_steps": 5, "eval_steps": 1, "save_steps": 1}
    return tiny.joint_settings(folder, str(stage1), train=train).model_dump()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["joint", "pretrain"])
def test_killed_at_any_moment_it_ends_with_the_same_weights(stage: str, stage1: Path, tmp_path: Path) -> None:
    values = settings_in(tmp_path, stage, stage1)
    whole = values | {"output": str(tmp_path / "whole")}
    moments = live(stage, whole)
    assert moments
    killed = values | {"output": str(tmp_path / "killed")}
    draw = random.Random(7 if stage == "joint" else 8)
    for moment in sorted(draw.sample(range(2, moments), 2 if stage == "joint" else 1)):
        assert live(stage, killed, moment) is None
    live(stage, killed)
    one, other = weights(whole["output"]), weights(killed["output"])
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert curve(whole["output"]) == curve(killed["output"])


@pytest.mark.slow
def test_killed_selections_and_evaluations_end_with_the_same_results(stage1: Path, tmp_path: Path) -> None:
    data = [str(tiny.manifest(tmp_path / "st.jsonl", count=4))]
    common = {"model": str(stage1), "data": data}
    for stage, result, rest in (
        ("select", "layers.json", {"num_pairs": 4}),
        ("evaluate", "results.json", {"silence_check": False, "generation": {"max_new_tokens": 3}}),
    ):
        whole, killed = ({**common, **rest, "output": str(tmp_path / stage / name)} for name in "wk")
        moments = live(stage, whole)
        assert moments
        assert live(stage, killed, random.Random(9).randrange(2, moments)) is None
        live(stage, killed)
        one, other = (json.loads((Path(each["output"]) / result).read_text()) for each in (whole, killed))
        for row in (*one.get("rows", ()), *other.get("rows", ())):
            del row["seconds"]
        for key in ("rows", "selected", "scores", "signatures"):
            assert one.get(key) == other.get(key)


@pytest.mark.slow
def test_sigterm_saves_and_leaves(stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny.joint_settings(tmp_path, str(stage1), train={"save_steps": 4})
    calls = []
    forward = SpeechTextObjective.forward

    def signalled(self: SpeechTextObjective, **batch: Any) -> Joint:
        calls.append(self.training)
        if sum(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, **batch)

    with monkeypatch.context() as patch:
        patch.setattr(SpeechTextObjective, "forward", signalled)
        with pytest.raises(run_module.Interrupted, match="step 3 of 4; nothing is lost"):
            joint(settings)
    assert (tmp_path / "joint/checkpoints/checkpoint-3" / COMPLETE).exists()
    assert joint(settings).steps == 4


# ---- the disk ----


@pytest.mark.parametrize("moment", ["checkpoint", pytest.param("weights", marks=pytest.mark.slow)])
def test_a_full_disk_is_said_and_nothing_is_lost(
    stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    settings = tiny.joint_settings(tmp_path, str(stage1))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*_: Any, **__: Any) -> None:
        raise full

    with monkeypatch.context() as patch:
        if moment == "weights":
            patch.setattr("aista.model.loading.save_file", fail)
        else:  # torch.save's own words, when the second checkpoint is written
            saved = torch.save

            def later(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
                if "checkpoint-4" in str(path):
                    raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed")
                saved(value, path, *args, **kwargs)

            patch.setattr(torch, "save", later)
        with pytest.raises(TrainingError, match="cannot be written") as caught:
            joint(settings)
    assert "MB are free" in str(caught.value) and "complete checkpoints" in str(caught.value).lower()
    kept = last_checkpoint(tmp_path / "joint")
    assert (kept is None) == (moment == "weights")
    assert not (tmp_path / "joint/checkpoints/checkpoint-4").exists()
    assert joint(settings).steps == 4


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_trained(
    stage1: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    settings = tiny.joint_settings(tmp_path, str(stage1), output=str(tmp_path / "file" / "run"))
    with pytest.raises(ConfigError, match="cannot be written"):
        joint(settings)


def test_errors_that_are_not_the_disks_pass(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), checkpointing.writing(tmp_path):
        raise RuntimeError("shapes differ")


def test_what_is_kept_and_what_a_crash_leaves(tmp_path: Path) -> None:
    folders = [tmp_path / f"checkpoints/checkpoint-{step}" for step in (1, 2, 3, 10)]
    for folder in folders:
        folder.mkdir(parents=True)
        complete(folder, str(folders[0]))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["checkpoint-1", "checkpoint-10", "checkpoint-3"]  # best, newest, the one before
    assert last_checkpoint(tmp_path) == str(folders[3])
    for kept in ("checkpoint-10 (copy)", "checkpoint-1-backup"):  # by its user: not ours to read or delete
        shutil.copytree(folders[3], folders[3].with_name(kept))
    complete(folders[3], str(folders[0]))
    assert last_checkpoint(tmp_path) == str(folders[3]) and len(list(folders[3].parent.iterdir())) == 5
    (folders[3] / COMPLETE).unlink()  # half written, or half deleted
    assert last_checkpoint(tmp_path) == str(folders[2]) and not folders[3].exists()
    (folders[2] / COMPLETE).write_text("")  # vouches for nothing
    assert last_checkpoint(tmp_path) == str(folders[0])


# ---- losses that are not finite ----


def poisoned(monkeypatch: pytest.MonkeyPatch, at: set[int]) -> None:
    """Let the losses of these forward passes, counted from 1, be NaN or (the even ones) infinite, backward
    pass and all."""
    passes = []
    forward = SpeechTextObjective.forward

    def poison(self: SpeechTextObjective, **batch: Any) -> Joint:
        found = forward(self, **batch)
        passes.append(self.training)
        bad = float("nan" if sum(passes) % 2 else "inf")
        return found._replace(loss=found.loss * bad) if sum(passes) in at else found

    monkeypatch.setattr(SpeechTextObjective, "forward", poison)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_utterances(
    stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny.joint_settings(tmp_path, str(stage1))
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    start = time.perf_counter()
    with monkeypatch.context() as patch:
        poisoned(patch, {3})
        with pytest.raises(TrainingError, match="not finite at step 2") as caught:
            joint(settings)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    before = float((tmp_path / "joint/seconds").read_text())
    (row,) = json.loads((tmp_path / "joint/nonfinite_batch.json").read_text())
    assert row["step"] == 2 and row["loss"] == "nan" and len(row["utterances"]) == 3
    assert all(name in str(caught.value) for name in row["utterances"])
    run = joint(settings)
    assert run.steps == 4  # from the checkpoint of step 2
    assert 0 < before < run.seconds < time.perf_counter() - start  # of both attempts


def test_a_batch_without_a_finite_loss_can_be_skipped(
    stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"nonfinite": "skip", "save_steps": 4}
    with monkeypatch.context() as patch:
        poisoned(patch, {2, 3})
        run = joint(tiny.joint_settings(tmp_path, str(stage1), train=train))
    assert run.steps == 4 and all(tensor.isfinite().all() for tensor in weights(run.folder).values())
    rows = json.loads((run.folder / "nonfinite_batch.json").read_text())
    assert [row["step"] for row in rows] == [1, 2]


@pytest.mark.parametrize("method", ["wasserstein", "retrieval"])
@pytest.mark.parametrize("action", ["skip", "stop"])
def test_states_that_are_not_finite_are_treated_as_losses_are(
    stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, action: str
) -> None:
    """The exact solver refuses them; the run names the clips all the same, or goes on without them."""
    calls, heard = [], SpeechTextObjective.paired_states

    def spoiled(self: SpeechTextObjective, *given: Any) -> Any:
        states = heard(self, *given)
        calls.append(self.training)
        if sum(calls) == 2:
            states.speech[0] = states.speech[0] * float("nan")
        return states

    train = {"nonfinite": action, "save_steps": 4} | NO_VALIDATION
    values = {"alignment": {"method": method, "layers": [0]}, "train": train}
    settings = tiny.joint_settings(tmp_path, str(stage1), **values)
    monkeypatch.setattr(SpeechTextObjective, "paired_states", spoiled)
    if action == "stop":
        with pytest.raises(TrainingError, match="not finite at step"):
            joint(settings)
    else:
        run = joint(settings)
        assert run.steps == 4 and all(tensor.isfinite().all() for tensor in weights(run.folder).values())
    (row,) = json.loads((tmp_path / "joint/nonfinite_batch.json").read_text())
    assert len(row["utterances"]) == 3


def test_a_skipped_step_leaves_no_trace(
    stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither momentum nor weight decay moves what is trained."""
    train = {"nonfinite": "skip", "max_steps": 3, "save_steps": 1, "weight_decay": 0.5} | NO_VALIDATION
    with monkeypatch.context() as patch:
        poisoned(patch, {3})
        run = joint(tiny.joint_settings(tmp_path, str(stage1), train=train))
    before, after = (run.folder / "checkpoints" / f"checkpoint-{step}" for step in (2, 3))
    found = weights(after)
    assert all(torch.equal(found[name], tensor) for name, tensor in weights(before).items())
    states = [torch.load(path / "optimizer.pt", weights_only=True)["state"] for path in (before, after)]
    assert states[0]
    for key, row in states[0].items():
        assert all(torch.equal(states[1][key][name], value) for name, value in row.items())


def test_what_is_finite_of_a_step_is_descended(
    stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two micro-batches one is skipped, whichever it is."""
    steps = {"nonfinite": "skip", "max_steps": 1, "save_steps": 1, "gradient_accumulation_steps": 2}
    for bad in (1, 2):
        with monkeypatch.context() as patch:
            poisoned(patch, {bad})
            settings = tiny.joint_settings(
                tmp_path, str(stage1), output=str(tmp_path / str(bad)), train=steps | NO_VALIDATION
            )
            found, start = weights(joint(settings).folder), weights(stage1)
        assert any(not torch.equal(found[name], tensor) for name, tensor in start.items())


@pytest.mark.slow
def test_a_run_whose_every_loss_is_bad_ends_all_the_same(
    stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"nonfinite": "skip", "max_steps": 20, "save_steps": 50} | NO_VALIDATION
    with monkeypatch.context() as patch:
        poisoned(patch, set(range(1, 40)))
        with pytest.raises(TrainingError, match="10 batches in a row"):
            joint(tiny.joint_settings(tmp_path, str(stage1), train=train))
