"""Eq. 6 in somebody else's loop: the README's blocks, on a speech LLM that is not ours (tiny, random)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from tests.baselines import tiny_systems

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README.split("## Eq. 6 in a training loop of yours")[1].split("\n## ")[0]
SELECTION, LOOP, TRAINER = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
TEXTS = ("A bell rings.", "Seven red books.", "It is late.")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the blocks take for granted."""
    folder = tiny_systems.qwen2_audio(tmp_path_factory.mktemp("qwen2_audio"))
    model = transformers.AutoModelForMultimodalLM.from_pretrained(folder)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    rng = np.random.default_rng(0)
    waves = [rng.standard_normal(8_000 + 6_000 * k).astype(np.float32) * 0.1 for k in range(3)]
    prompts = [f"hear {tiny_systems.AUDIO} and say: Ja." for _ in waves]
    heard = dict(
        processor(text=prompts, audio=waves, sampling_rate=16_000, return_tensors="pt", padding=True)
    )
    heard["labels"] = heard["input_ids"].masked_fill(heard["attention_mask"] == 0, -100)
    tokens, rows, spans = processor.tokenizer, [], []
    for text in TEXTS:
        before, middle, after = (tokens(part)["input_ids"] for part in ("hear ", text, " and say: Ja."))
        rows.append(before + middle + after)
        spans.append((len(before), len(before) + len(middle)))
    width = max(map(len, rows))
    ids = torch.tensor([row + [tokens.pad_token_id] * (width - len(row)) for row in rows])
    places = torch.arange(width)[None]
    written = {"input_ids": ids, "attention_mask": (places < torch.tensor([[len(r)] for r in rows])).long()}
    first, last = torch.tensor(spans).T[..., None]
    return {
        "torch": torch, "transformers": transformers, "model": model, "heard": heard, "written": written,
        "transcript": (places >= first) & (places < last),
        "optimizer": torch.optim.AdamW(model.parameters(), lr=5e-3),
    }  # fmt: skip


def distance_now(names: dict[str, Any], layers: list[int]) -> float:
    """The mean distance of the pairs at the layers, by their own states."""
    from aista.alignment import WassersteinLoss

    model, heard, written = names["model"].eval(), names["heard"], names["written"]
    with torch.no_grad():
        speech = model(**heard, output_hidden_states=True).hidden_states
        text = model(**written, output_hidden_states=True).hidden_states
    mask = heard["input_ids"] == model.config.audio_token_id
    loss = WassersteinLoss(scale="cosine")
    return sum(float(loss(speech[k], mask, text[k], names["transcript"]).mean()) for k in layers)


def test_the_blocks_are_short() -> None:
    for block in (LOOP, TRAINER):
        assert len(block.strip().splitlines()) <= 20


def test_selection_and_a_plain_loop(names: dict[str, Any]) -> None:
    exec(SELECTION, names)
    assert names["layers"] == [0, 1, 2]  # three pairs: every MRR is above 0.05
    before = distance_now(names, [0, 1, 2])
    names["batches"] = [(names["heard"], names["written"], names["transcript"])] * 8
    names["model"].train()
    exec(LOOP, names)
    assert distance_now(names, [0, 1, 2]) < 0.9 * before


@pytest.mark.slow
def test_a_transformers_trainer(names: dict[str, Any], tmp_path: Path) -> None:
    exec(SELECTION + LOOP.split("for heard")[0] + TRAINER, names)
    before = distance_now(names, names["layers"])

    def collate(items: list[int]) -> dict[str, Any]:
        return {**names["heard"], "written": names["written"], "transcript": names["transcript"]}

    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=6, per_device_train_batch_size=3, learning_rate=5e-3, report_to=[],
        remove_unused_columns=False, save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    rows: Any = [0, 1, 2] * 6
    trainer = names["AlignedTrainer"](names["model"], arguments, data_collator=collate, train_dataset=rows)
    trainer.train()
    assert distance_now(names, names["layers"]) < 0.95 * before
    found: Tensor = names["model"].get_input_embeddings().weight
    assert found.isfinite().all()
    first = []
    for size, parts in ((3, 1), (3, 2)):  # the same rows once more in a second part: the same mean
        arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps = size, parts
        arguments.max_steps, arguments.logging_steps, arguments.learning_rate = 1, 1, 0.0
        made = names["AlignedTrainer"]
        trainer = made(names["model"], arguments, data_collator=collate, train_dataset=rows)
        trainer.train()
        first.append([trainer.state.log_history[0][key] for key in ("loss", "grad_norm")])
    assert first[0] == pytest.approx(first[1], rel=1e-4)
