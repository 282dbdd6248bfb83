"""How a run is optimised: batches, what processes can share, learning rates (docs/decisions, 8)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from aista import processes
from aista.alignment.base import Alignment
from aista.config import TrainSettings
from aista.data.dataset import SpeechDataset
from aista.errors import ConfigError
from aista.model.lora import is_lora

_OF_ONE_NAME = {
    "max_steps", "per_device_train_batch_size", "per_device_eval_batch_size", "learning_rate", "weight_decay",
    "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "eval_steps", "save_steps", "logging_steps",
    "report_to",
}  # fmt: skip


def training_arguments(output: Path, settings: TrainSettings, seed: int) -> TrainingArguments:
    """Return our settings as transformers' own, for its callbacks, which note them beside a run.

    Raises:
        ConfigError: The global batch does not divide among the processes.
    """
    return TrainingArguments(
        output_dir=str(output / "checkpoints"),
        gradient_accumulation_steps=accumulation(settings),
        bf16=settings.precision == "bf16",
        eval_strategy="no" if settings.eval_steps is None else "steps",
        seed=seed,
        use_cpu=not torch.cuda.is_available(),
        **settings.model_dump(include=_OF_ONE_NAME),
    )


def require_reporters(settings: TrainSettings) -> None:
    """Demand that everything the rows of the log shall go to is installed.

    Raises:
        ConfigError: It is not.
    """
    installed = get_available_reporting_integrations()
    if absent := set(settings.report_to) - set(installed):
        raise ConfigError(
            f"train.report_to names what is not installed: {', '.join(sorted(absent))}.",
            expected=f"installed here: {', '.join(installed) or 'none'}",
            advice="pip install tensorboard (or wandb), or leave it out: `aista monitor` needs neither.",
        )


def require_whole_steps(alignment: Alignment, micro_batches: int) -> None:
    """Demand one micro-batch a step for a method whose pairs need each other.

    Raises:
        ConfigError: The step is cut into several.
    """
    if alignment.over_batch and micro_batches > 1:
        raise ConfigError(
            "This alignment compares the pairs of a whole step: it cannot be cut into micro-batches.",
            got=f"{', '.join(alignment.loss_names)} with {micro_batches} micro-batches a step",
            expected="one micro-batch a step; several processes are fine, their pairs are gathered",
            advice="Raise train.per_device_train_batch_size, use more processes, or lower the global batch. "
            "(wasserstein with scale=text_spread: fixed numbers, alignment.options.spread, need no batch.)",
        )


def require_one_kind(dataset: SpeechDataset, together: bool) -> None:
    """Demand sound in every row, or in none, where all processes have to run the same parts of a model.

    Args:
        together: Whether they have to: they share out a model or its recomputation, or gather their pairs.

    Raises:
        ConfigError: One process may have a batch without sound while another has one with it.
    """
    if together and dataset.has_sound.any() and not dataset.has_sound.all():
        raise ConfigError(
            "Rows with and without sound cannot be shared out among these processes.",
            got=f"{processes.count()} processes and {int((~dataset.has_sound).sum())} rows of task mt",
            expected="one process; or several with the whole model each, no activation checkpointing, and "
            "no alignment that compares the pairs of a batch (retrieval, contrastive, text_spread)",
            advice="Train in one process, or leave the rows of task mt out.",
        )


def accumulation(settings: TrainSettings) -> int:
    """Return how many micro-batches each process adds up to an optimiser step.

    Raises:
        ConfigError: The global batch does not divide among the processes.
    """
    if settings.global_batch_size is None:
        return settings.gradient_accumulation_steps
    micro = settings.per_device_train_batch_size * processes.count()
    if settings.global_batch_size % micro:
        raise ConfigError(
            "train.global_batch_size cannot be shared out.",
            got=f"{settings.global_batch_size} over {processes.count()} processes of "
            f"{settings.per_device_train_batch_size}",
            expected=f"a multiple of {micro}",
            advice="Change train.per_device_train_batch_size or the number of processes.",
        )
    return settings.global_batch_size // micro


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Return the learning rate of a global step, counted from 0.

    Linear from ``warmup_start_learning_rate`` to ``learning_rate`` over ``warmup_steps``, then a cosine that
    is counted from step 0 to ``max_steps`` and ends at ``min_learning_rate``. Counting the cosine from step 0
    makes the rate drop a little where the warm-up ends (2.94e-5 instead of 3e-5 with the paper's values).

    Source: the paper's A.1 for the values; SALMONN for the form.
    Departs: SALMONN restarts the warm-up at each of its epochs; here steps are global, unless
        ``salmonn_epoch_steps`` says how long its epochs are.
    """
    peak, low = settings.learning_rate, settings.min_learning_rate
    if step < settings.warmup_steps:
        start = settings.warmup_start_learning_rate
        counted = step % settings.salmonn_epoch_steps if settings.salmonn_epoch_steps else step
        return start + (peak - start) * counted / settings.warmup_steps
    progress = min(step / settings.max_steps, 1.0)
    return low + (peak - low) / 2 * (1 + math.cos(math.pi * progress))


def part_of(name: str) -> str:
    """Return which part a parameter belongs to, by its name in the objective.

    Of somebody else's model all that is trained beside LoRA is its projection.
    """
    if "window_qformer.projection." in name:
        return "projection"
    if "window_qformer." in name:
        return "qformer"
    if name.startswith(("alignment.", "module.alignment.")):
        return "alignment"
    return "lora" if is_lora(name) else "projection"


def split_by_part(
    optimizer: torch.optim.Optimizer,
    named: Iterable[tuple[str, nn.Parameter]],
    rates: Mapping[str, float],
) -> None:
    """Give the named parts their own peak learning rate, in place, before the first step.

    Args:
        optimizer: Its groups are cut by part; what else they say (weight decay) stays.
        named: The parameters and their names.
        rates: Part -> learning rate; the others keep the group's. A schedule scales all of them alike.
    """
    parts = {id(parameter): part_of(name) for name, parameter in named}
    groups = []
    for group in optimizer.param_groups:
        members: dict[str, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            part = parts[id(parameter)]
            members.setdefault(part if part in rates else "", []).append(parameter)
        for part, parameters in members.items():
            groups.append({**group, "params": parameters, "lr": rates.get(part, group["lr"])})
    optimizer.param_groups[:] = groups
