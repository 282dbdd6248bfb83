"""The training loop all three stand-ins share, and how their results are stored."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aista.errors import TrainingError

Item = TypeVar("Item")
# (steps done, steps in all, running mean of the loss)
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Schedule:
    """AdamW with linear warm-up and a cosine to zero."""

    steps: int
    batch_size: int
    peak_learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.01

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step counted from 0."""
        if step < self.warmup_steps:
            return self.peak_learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.peak_learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def fit(
    model: nn.Module,
    batches: Iterable[Any],
    loss_of: Callable[[Any], Tensor],
    schedule: Schedule,
    *,
    progress: Progress | None = None,
    save: Callable[[], None] | None = None,
    save_every: int = 500,
) -> float:
    """Train; ``save`` is called every ``save_every`` steps so that an unfinished model can be looked at.

    Returns:
        Minutes it took.

    Raises:
        TrainingError: The loss is not finite.
    """
    started, running = time.perf_counter(), 0.0
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=schedule.peak_learning_rate, betas=(0.9, 0.98), weight_decay=schedule.weight_decay,
    )  # fmt: skip
    model.train()
    for step, batch in zip(range(schedule.steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(step)
        loss = loss_of(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError("The loss of a stand-in is not finite.", got=f"{value} at step {step}")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running = value if step == 0 else 0.98 * running + 0.02 * value
        if progress:
            progress(step + 1, schedule.steps, running)
        if save and (step + 1) % save_every == 0 and step + 1 < schedule.steps:
            save()
            model.train()
    model.eval()
    return round((time.perf_counter() - started) / 60, 1)


def length_grouped(
    items: list[Item], length_of: Callable[[Item], int], batch_size: int, rng: Random
) -> Iterator[list[Item]]:
    """Shuffled batches of items of similar length, epoch after epoch."""
    while True:
        order = items[:]
        rng.shuffle(order)
        batches: list[list[Item]] = []
        for start in range(0, len(order), 50 * batch_size):
            pool = sorted(order[start : start + 50 * batch_size], key=length_of)
            batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        rng.shuffle(batches)
        yield from batches


def round_to_bfloat16(model: nn.Module) -> None:
    """Round the weights to what is stored, so that the scores are those of the stored weights."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data.copy_(tensor.data.to(torch.bfloat16).to(tensor.dtype))


def save_bfloat16(model: PreTrainedModel, folder: Path) -> None:
    """Write the rounded weights at half the size; the model in memory becomes bfloat16."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder)


def publish(partial: Path, folder: Path, card: dict[str, Any]) -> None:
    """Put a finished folder in its place in one step, with its facts in ``card.json``."""
    write_card(partial, card)
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(folder)


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write the facts of a stand-in."""
    (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def card(folder: Path) -> dict[str, Any]:
    """Read the facts of a stand-in."""
    return json.loads((folder / "card.json").read_text(encoding="utf-8"))


def finished(folder: Path) -> bool:
    """Whether a stand-in has been published here."""
    return (folder / "card.json").exists()
