"""Our settings of a training run as transformers' own."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from aista import processes
from aista.alignment.base import Alignment
from aista.config import TrainSettings
from aista.data.dataset import SpeechDataset
from aista.errors import ConfigError

METRIC = "token_accuracy"


def training_arguments(
    output: Path, settings: TrainSettings, seed: int, num_workers: int = 0, metric: str = METRIC
) -> TrainingArguments:
    """Translate our settings into transformers' own.

    Args:
        metric: Of the validation that decides which model is kept; larger is better.

    Raises:
        ConfigError: The global batch does not divide among the processes.
    """
    validates = settings.eval_steps is not None
    return TrainingArguments(
        output_dir=str(output / "checkpoints"),
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        per_device_eval_batch_size=settings.per_device_eval_batch_size,
        gradient_accumulation_steps=accumulation(settings),
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        adam_epsilon=settings.adam_epsilon,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.precision == "bf16",
        eval_strategy="steps" if validates else "no",
        eval_steps=settings.eval_steps,
        save_strategy="steps",
        save_steps=settings.save_steps,
        load_best_model_at_end=validates,
        metric_for_best_model=metric if validates else None,
        greater_is_better=True if validates else None,
        restore_callback_states_from_checkpoint=True,
        activation_checkpointing=settings.activation_checkpointing,
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,
        report_to=settings.report_to,
        dataloader_num_workers=num_workers,
        remove_unused_columns=False,
        label_names=["labels"],
        seed=seed,
        data_seed=seed,
        # What they choose for a PreTrainedModel, which the objective holds and is not.
        ddp_find_unused_parameters=not settings.activation_checkpointing,
        use_cpu=not torch.cuda.is_available(),
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
