"""Alignment first: trains the Q-Former alone, without the language model, and resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from aista.cli import main
from aista.config import AlignSettings, PretrainSettings, SelectSettings
from aista.errors import ConfigError
from aista.model import AistaForConditionalGeneration
from aista.selection.select import select
from aista.training.stages import Interrupted, align, pretrain
from tests import tiny
from tests.training.interrupting import interrupted_after


def settings(folder: Path, **changes: object) -> AlignSettings:
    """Alignment on tiny bases; the training pairs are the held-out ones too."""
    stage1 = tiny.pretrain_settings(folder).model_dump(mode="json")
    data = {**stage1["data"], "validation": stage1["data"]["train"]}
    train = {
        "max_steps": 4, "per_device_train_batch_size": 4, "eval_steps": 2, "save_steps": 2,
        "logging_steps": 1, "warmup_steps": 1, "learning_rate": 3e-3,
    }  # fmt: skip
    model = {**stage1["model"], "speech_token_scale": "embeddings"}
    values = {"output": str(folder / "aligned"), "model": model, "data": data, "train": train, "seed": 5}
    for name, change in changes.items():
        inner = isinstance(change, dict) and name in values
        values[name] = {**values[name], **change} if inner else change
    return AlignSettings.of(values)


@pytest.mark.parametrize("method", ["ctc", "contrastive"])
def test_every_method_that_is_promised_is_validated(tmp_path: Path, method: str) -> None:
    """CTC with an output layer of its own trains without the text side; its validation ranks it."""
    run = align(settings(tmp_path, alignment={"method": method, "layers": [0]}))
    logged = json.loads((run.folder / "history.json").read_text())
    ranked = [row["eval_mrr"] for row in logged if "eval_mrr" in row]
    assert len(ranked) == 2 and all(0 < value <= 1 for value in ranked)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AistaForConditionalGeneration.from_pretrained(folder).trainable_state_dict()


def test_it_trains_the_qformer_alone_and_no_block_of_the_backbone_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention

    monkeypatch.setattr(Qwen2Attention, "forward", lambda *_, **__: pytest.fail("the language model ran"))
    run = align(settings(tmp_path))
    assert run.steps == 4 and 0 < run.best_mrr <= 1 and run.best_token_accuracy is None
    before, after = weights_of_new_model(tmp_path), weights(run.folder)
    for name, tensor in after.items():
        changed = not torch.equal(tensor, before[name])
        # The last layer's bias of a LayerNorm, an unused embedding: most of the Q-Former moves, no LoRA does.
        assert not (changed and "lora" in name), name
    assert sum(not torch.equal(after[n], before[n]) for n in after if "window_qformer" in n) > 10
    logged = json.loads((run.folder / "history.json").read_text())
    assert any("retrieval_0" in row and "retrieval_accuracy" in row for row in logged)
    assert [row["step"] for row in logged if "eval_mrr" in row] == [2, 4]


def weights_of_new_model(folder: Path) -> dict[str, torch.Tensor]:
    from aista.training.stages import fresh_model

    chosen = settings(folder)
    return fresh_model(chosen.model, chosen.seed)[0].trainable_state_dict()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "method",
    [{}, pytest.param({"method": "wasserstein", "options": {"scale": "cosine"}}, marks=pytest.mark.slow)],
)
def test_the_mrr_shown_is_that_of_layer_selection_by_the_trained_cost(tmp_path: Path, method: dict) -> None:
    run = align(settings(tmp_path, alignment=method))
    logged = json.loads((run.folder / "history.json").read_text())
    seen = [row["eval_mrr"] for row in logged if "eval_mrr" in row]
    assert run.best_mrr == max(seen)
    chosen = {"output": str(tmp_path / "select"), "model": str(run.folder), "num_pairs": 12, "cost": "cosine"}
    report = select(SelectSettings.of({**chosen, "data": [str(tmp_path / "asr.jsonl")]}))
    assert report.mrr_by_layer[0] == pytest.approx(run.best_mrr)


def test_a_method_that_can_be_read_is_read_and_judged_by_it(tmp_path: Path) -> None:
    train = {"max_steps": 6, "eval_steps": 2, "save_steps": 2}
    run = align(settings(tmp_path, alignment={"method": "retrieval_ctc"}, train=train))
    logged = json.loads((run.folder / "history.json").read_text())
    seen = [row["eval_token_accuracy"] for row in logged if "eval_token_accuracy" in row]
    assert len(seen) == 3 and run.best_token_accuracy == max(seen) <= 1 and run.best_mrr is None
    assert all("eval_mrr" in row for row in logged if "eval_token_accuracy" in row)
    assert any({"retrieval_ctc_0", "retrieval", "ctc", "ctc_too_short"} <= set(row) for row in logged)


@pytest.mark.slow
def test_an_interrupted_alignment_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = align(settings(tmp_path))
    other = settings(tmp_path, output=str(tmp_path / "again"))
    with monkeypatch.context() as patched:
        interrupted_after(2, patched)
        with pytest.raises(Interrupted):
            align(other)
    resumed = align(other)
    found = weights(resumed.folder)
    for name, tensor in weights(whole.folder).items():
        assert torch.equal(tensor, found[name])
    assert resumed.best_mrr == whole.best_mrr


def test_inner_layers_run_the_blocks_below_them(tmp_path: Path) -> None:
    run = align(settings(tmp_path, alignment={"layers": [0, 2], "options": {"cost": "standardised"}}))
    logged = json.loads((run.folder / "history.json").read_text())
    assert any({"retrieval_0", "retrieval_2"} <= row.keys() for row in logged)


@pytest.mark.slow
def test_stage_1_starts_from_an_aligned_model(tmp_path: Path) -> None:
    aligned = align(settings(tmp_path)).folder
    values = tiny.pretrain_settings(tmp_path, max_steps=1, save_steps=1).model_dump(mode="json")
    values |= {"model": None, "init": str(aligned), "output": str(tmp_path / "stage1")}
    run = pretrain(PretrainSettings.of(values))
    model = AistaForConditionalGeneration.from_pretrained(run.folder)
    assert model.config.speech_token_length is not None
    assert len(model.config.directions) == len(set(model.config.directions)) > 0
    start = weights(aligned)
    moved = [(tensor - start[name]).abs().max() for name, tensor in model.trainable_state_dict().items()]
    assert max(moved) < 0.01  # one step away from where alignment ended


@pytest.mark.parametrize("changes", [{"init": "runs/x"}, {"model": None}])
def test_it_starts_from_exactly_one_thing(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="either model"):
        settings(tmp_path, **changes)


def test_a_layer_that_is_not_there_and_a_method_without_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no such layer"):
        align(settings(tmp_path, alignment={"layers": [9]}))
    with pytest.raises(ConfigError, match="no hidden states"):
        align(settings(tmp_path, alignment={"method": "distillation"}))


@pytest.mark.parametrize("verb", ["align", "pretrain", "select", "joint"])
def test_a_verb_can_be_told_everything_by_set(verb: str) -> None:
    """No --config: what is missing is said, by name."""
    main._add_verbs()
    done = CliRunner().invoke(main.app, [verb, "--set", "output=runs/x"])
    assert done.exit_code != 0 and isinstance(done.exception, ConfigError)
    assert "data" in str(done.exception)
