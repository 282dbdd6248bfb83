"""The loop: a step has the same rows on any number of processes; a resumed run logs the same curves."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from aista.config import AlignSettings, JointSettings, SelectSettings, TrainSettings
from aista.data.dataset import Collator, SpeechDataset
from aista.data.manifest import Manifest
from aista.errors import ConfigError, ManifestError
from aista.selection.select import select
from aista.text.prompts import instruction
from aista.training.callbacks import Sums
from aista.training.optimisation import learning_rate, require_one_kind
from aista.training.stages import Interrupted, align, joint
from aista.training.trainer import AistaTrainer, own_shares
from tests import tiny
from tests.engines import stages
from tests.training.interrupting import interrupted_after


@pytest.mark.parametrize(("count", "size", "ranks"), [(8, 2, 2), (7, 2, 2), (3, 2, 4), (1, 4, 3), (9, 3, 1)])
def test_every_row_of_a_step_counts_once(
    count: int, size: int, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(range(100, 100 + count))
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    shares = []
    for rank in range(ranks):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(own_shares(rows, size))
    assert len({len(share) for share in shares}) == 1  # all run equally often
    assert sorted(row for share in shares for one in share if one.counted for row in one.rows) == rows
    assert all(0 < len(one.rows) <= size for share in shares for one in share)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stages.stage1(tmp_path_factory.mktemp("stage1"))


def curves(folder: Path) -> list[tuple[int, str, float]]:
    names = ("loss", "ce", "token_accuracy", "wasserstein_0", "wasserstein_1", "eval_loss", "train_loss")
    rows = json.loads((folder / "history.json").read_text())
    return [(row["step"], name, row[name]) for row in rows for name in names if name in row]


@pytest.mark.slow
def test_a_resumed_run_logs_the_same_curves(
    init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between two rows of the log: the means are over all steps since the last row all the same."""
    train = {"max_steps": 7, "logging_steps": 4, "eval_steps": 3, "save_steps": 3}
    whole = joint(tiny.joint_settings(tmp_path, str(init), output=str(tmp_path / "whole"), train=train))
    settings = tiny.joint_settings(tmp_path, str(init), output=str(tmp_path / "parts"), train=train)
    for step in (2, 6):
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            interrupted_after(step, patch)
            joint(settings)
    found = curves(joint(settings).folder)
    assert found == curves(whole.folder)
    assert {name for _, name, _ in found} >= {"ce", "token_accuracy", "wasserstein_0", "train_loss"}


@pytest.mark.slow
@pytest.mark.parametrize("bound", [0.0, 0.05])
def test_a_step_is_plain_adamws(
    init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: float
) -> None:
    """torch's AdamW on copies of the parameters, by name: what decays, betas, epsilon, rate, clipping."""
    train = {
        "max_steps": 4, "weight_decay": 0.2, "adam_beta1": 0.6, "adam_beta2": 0.9,
        "adam_epsilon": 1e-3, "max_grad_norm": bound, "learning_rates": {"lora": 4e-3},
    }  # fmt: skip
    copies: dict[str, nn.Parameter] = {}
    plain: list[torch.optim.AdamW] = []
    norms: list[float] = []
    prepare, clip, after = AistaTrainer.prepare, AistaTrainer.clip_gradients, AistaTrainer.after_step

    def prepared(trainer: AistaTrainer) -> None:
        prepare(trainer)
        for name, parameter in trainer.trained_module.named_parameters():
            if parameter.requires_grad:
                copies[name] = nn.Parameter(parameter.detach().clone())
        never = {name for name in copies if name.endswith("bias") or "norm" in name.lower()}
        assert 0 < len(never) < len(copies)
        groups = [
            {"params": [copy], "weight_decay": 0.0 if name in never else 0.2} for name, copy in copies.items()
        ]
        plain.append(torch.optim.AdamW(groups, betas=(0.6, 0.9), eps=1e-3))

    def clipped(trainer: AistaTrainer) -> None:
        for name, parameter in trainer.trained_module.named_parameters():
            if name in copies:
                assert parameter.grad is not None
                copies[name].grad = parameter.grad.clone()
        norms.append(float(nn.utils.clip_grad_norm_(copies.values(), bound or float("inf"))))
        rate = learning_rate(trainer.state.global_step, trainer.settings)
        for name, group in zip(copies, plain[0].param_groups, strict=True):
            group["lr"] = rate * (4 if "lora_" in name else 1)  # 4e-3, where the others' peak is 1e-3
        plain[0].step()
        clip(trainer)

    def stepped(trainer: AistaTrainer) -> None:
        for name, parameter in trainer.trained_module.named_parameters():
            if name in copies:
                torch.testing.assert_close(parameter, copies[name], rtol=1e-6, atol=1e-7)
        after(trainer)

    monkeypatch.setattr(AistaTrainer, "prepare", prepared)
    monkeypatch.setattr(AistaTrainer, "clip_gradients", clipped)
    monkeypatch.setattr(AistaTrainer, "after_step", stepped)
    joint(tiny.joint_settings(tmp_path, str(init), train=train))
    assert len(norms) == 4 and min(norms) > 0.05


@pytest.mark.slow
def test_the_best_model_is_kept_however_seldom_is_saved(
    init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = [0.1, 0.5, 0.9, 0.7, 0.9, 0.65]  # the first of two equal ones is kept
    monkeypatch.setattr(
        AistaTrainer, "validation_metrics",
        lambda self: {"token_accuracy": accuracies[self.state.global_step - 1], "loss": 1.0},
    )  # fmt: skip
    kept = []
    for every in (1, 2, 6):
        train = {"max_steps": 6, "eval_steps": 1, "save_steps": every}
        run = joint(tiny.joint_settings(tmp_path, str(init), output=str(tmp_path / str(every)), train=train))
        assert run.best_token_accuracy == 0.9
        kept.append(load_file(run.folder / "model.safetensors"))
        best = load_file(run.folder / "checkpoints/checkpoint-3/model.safetensors")
        assert all(torch.equal(tensor, best[name]) for name, tensor in kept[-1].items())
    for name, tensor in kept[0].items():
        assert torch.equal(tensor, kept[1][name]) and torch.equal(tensor, kept[2][name])


@pytest.mark.slow
def test_a_signal_breaks_a_validation_off_and_the_run_that_goes_on_owes_it(
    init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sent it may not wait for the end of a validation, and the steps before it would be lost."""
    train = {"per_device_eval_batch_size": 1, "save_steps": 4}
    whole = joint(tiny.joint_settings(tmp_path, str(init), output=str(tmp_path / "whole"), train=train))
    settings = tiny.joint_settings(tmp_path, str(init), train=train)
    batches, seen = AistaTrainer.validation_batches, []

    def signalled(self: AistaTrainer) -> Any:
        for batch in batches(self):
            seen.append(self.state.global_step)
            if len(seen) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(AistaTrainer, "validation_batches", signalled)
        with pytest.raises(Interrupted, match="step 2"):
            joint(settings)
    assert seen == [2]  # of four clips
    assert curves(joint(settings).folder) == curves(whole.folder)


def test_a_run_ends_where_its_last_checks_brought_no_gain() -> None:
    """patience 2: two checks without one. As good as the best is no gain."""
    for accuracies, is_over in (
        ([], False), ([0.5], False), ([0.5, 0.4], False), ([0.5, 0.4, 0.5], True), ([0.5, 0.4, 0.6], False),
        ([0.1, 0.5, 0.4, 0.3], True),
    ):  # fmt: skip
        rows = [{"eval_token_accuracy": value} for value in accuracies]
        state = SimpleNamespace(global_step=9, log_history=[{"ce": 1.0}, *rows])
        trainer: Any = SimpleNamespace(
            state=state, settings=TrainSettings(max_steps=10, warmup_steps=1, eval_steps=1, patience=2),
            control=SimpleNamespace(should_training_stop=False), metric="token_accuracy",
        )  # fmt: skip
        assert AistaTrainer.is_over(trainer) is is_over


def test_a_validation_is_a_mean_over_targets_not_over_batches() -> None:
    """1 of 2 and 6 of 8 targets are right; a batch that only makes up the number counts for nothing."""
    batches = []
    for count, *row in ((1, 1, 2, 3.0), (1, 6, 8, 5.0), (0, 9, 9, 9.0)):
        parts = dict(zip(("correct", "tokens", "ce"), map(torch.tensor, row), strict=True))
        batches.append(({"speech": SimpleNamespace(to=lambda _, parts=parts: parts)}, count))
    trainer: Any = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", reduce=lambda totals, reduction: totals),
        trained_module=lambda speech: SimpleNamespace(parts=speech), metric="token_accuracy",
        validation_batches=lambda: iter(batches),
    )  # fmt: skip
    assert AistaTrainer.validation_metrics(trainer) == pytest.approx({"token_accuracy": 0.7, "loss": 0.8})


def test_every_epoch_draws_its_own_wordings(tmp_path: Path) -> None:
    """Also the one that a resumed run goes on in."""
    row = Manifest(tiny.manifest(tmp_path / "st.jsonl", count=1))[0]
    collator = Collator(None, prompt_pool=True, seed=3)
    trainer: Any = SimpleNamespace(
        data=SimpleNamespace(collator=collator, train=None), sampler=SimpleNamespace(order=np.arange),
        step_rows=2, micro_batch=2, loader=lambda _, batches: [collator.instruction(row) for _ in batches],
    )  # fmt: skip
    found = [next(AistaTrainer.steps_of(trainer, epoch, 1, None))[0][0] for epoch in range(4, 24)]
    drawn = [instruction("st", "zh", draw=f"3-{epoch}-u0") for epoch in range(4, 24)]
    assert found == drawn and len(set(drawn)) == 3


def test_settings_that_a_model_cannot_follow_are_refused(init: Path, tmp_path: Path) -> None:
    settings = tiny.joint_settings(tmp_path, str(init))
    longer = settings.model_copy(update={"data": settings.data.model_copy(update={"max_seconds": 31.0})})
    with pytest.raises(ConfigError, match="more than the model hears"):
        joint(longer)
    other = settings.model_copy(update={"lora": settings.lora.model_copy(update={"r": 16})})
    with pytest.raises(ConfigError, match="has LoRA already"):
        joint(other)
    assert not (Path(settings.output) / "model.safetensors").exists()


@pytest.mark.slow
def test_the_last_step_of_an_epoch_is_the_same_however_it_is_cut(init: Path, tmp_path: Path) -> None:
    """12 rows, 8 a step: every second step has 4."""
    found = []
    for size in (8, 4, 2, 1):
        train = {"global_batch_size": 8, "per_device_train_batch_size": size}
        settings = stages.joint_yaml(tmp_path, init, f"of_{size}", **train)[1]
        folder = joint(settings).folder
        rows = json.loads((folder / "history.json").read_text())
        norms = [(row["step"], "grad_norm", row["grad_norm"]) for row in rows if "grad_norm" in row]
        assert len(norms) == 4  # of gradients: Adam's steps would be the same in any scale
        found.append(stages.history(folder) + norms)
    for other in found[1:]:
        assert [row[:2] for row in other] == [row[:2] for row in found[0]]
        assert [row[2] for row in other] == pytest.approx([row[2] for row in found[0]], rel=2e-5)


@pytest.mark.slow
def test_clips_and_texts_train_together(init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the rows are texts. Cut or stopped, the run is the same; the alignment counts clips."""
    texts = str(tiny.texts(tmp_path / "mt.jsonl"))
    data = {"train": [str(tmp_path / "st.jsonl"), texts], "validation": [texts], "weights": [2, 1]}
    train = {"max_steps": 5, "logging_steps": 1, "per_device_train_batch_size": 6}

    def settings(name: str, **changes: object) -> JointSettings:
        return tiny.joint_settings(
            tmp_path, str(init), output=str(tmp_path / name), data=data, train=train | changes
        )

    whole = curves(joint(settings("whole")).folder)
    assert sum(name == "wasserstein_1" and value > 0 for _, name, value in whole) == 5
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupted_after(3, patch)
        joint(settings("parts"))
    assert curves(joint(settings("parts")).folder) == whole
    cut = curves(joint(settings("cut", per_device_train_batch_size=1, gradient_accumulation_steps=6)).folder)
    assert [row[:2] for row in cut] == [row[:2] for row in whole]
    assert [row[2] for row in cut] == pytest.approx([row[2] for row in whole], rel=2e-5)


def test_what_texts_cannot_be_trained_for_is_refused(
    init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tiny.texts(tmp_path / "mt.jsonl")
    both = SpeechDataset([Manifest(tiny.manifest(tmp_path / "st.jsonl")), Manifest(texts)])
    require_one_kind(both, together=False)
    require_one_kind(both.subset(range(12)), together=True)
    require_one_kind(both.subset(range(12, len(both))), together=True)
    with pytest.raises(ConfigError, match="6 rows of task mt"):
        require_one_kind(both, together=True)
    with pytest.raises(ManifestError, match="0 different clips"):
        select(
            SelectSettings(output=str(tmp_path / "select"), model=str(init), data=[str(texts)], num_pairs=2)
        )
    data = {"train": [str(texts)], "validation": [str(texts)]}
    values = {"output": str(tmp_path / "aligned"), "init": str(init), "data": data}
    with pytest.raises(ConfigError, match=r"6 rows of task mt, e\.g\. 't0'"):
        align(AlignSettings.of(values))


def test_sums_go_on_with_another_number_of_processes() -> None:
    """Two processes' shares taken over by one: losses are means over processes, figures ratios of sums."""
    shares = []
    for ce, right in ((1.0, 2.0), (3.0, 6.0)):
        one = Sums()
        for step in (1, 2):  # the first of which was logged
            one.add({"ce": ce, "loss": ce, "token_accuracy": right / 10}, {"token_accuracy": 10})  # type: ignore[dict-item]
            if step == 1:
                one.read(step)
        shares.append(one.state())
    alone = Sums()
    alone.load(shares, rank=0, count=1)
    assert alone.read(2) == pytest.approx({"ce": 2.0, "loss": 2.0, "token_accuracy": 0.4})
    assert alone.total_loss() == pytest.approx(4.0)  # of both steps
