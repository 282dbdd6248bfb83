"""A thin ``transformers.Trainer``: cross-entropy plus alignment (Eq. 6), the schedule, small checkpoints.

What is ours: the loss, the learning rate, the order of batches, checkpoints of trained tensors only, and a
validation that reports token accuracy. Everything else (loops, engines, mixed precision, logging) is theirs.
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from aista.alignment import PairedStates
from aista.alignment.base import Alignment
from aista.config import TrainSettings
from aista.data.sampling import LengthGroupedSampler
from aista.errors import TrainingError
from aista.model.assembly import read_trained
from aista.model.spans import take_span
from aista.training.callbacks import Progress, StopOnSignal
from aista.training.schedule import learning_rate

TEXT_BRANCH = ("transcript_input_ids", "transcript_attention_mask", "transcript_mask")
METRIC = "token_accuracy"
COMPLETE = "COMPLETE"


def training_arguments(
    output: Path, settings: TrainSettings, seed: int, num_workers: int = 0
) -> TrainingArguments:
    """Translate our settings into transformers' own."""
    validates = settings.eval_steps is not None
    return TrainingArguments(
        output_dir=str(output / "checkpoints"),
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        per_device_eval_batch_size=settings.per_device_eval_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
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
        save_total_limit=2,
        load_best_model_at_end=validates,
        metric_for_best_model=METRIC if validates else None,
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
        use_cpu=not torch.cuda.is_available(),
    )


class AistaTrainer(Trainer):
    """Train a speech LLM with L = alpha CE + (1 - alpha) mean of the objective's losses.

    Args:
        objective: The alignment method; ``none`` trains the base model.
        alpha: Weight of the cross-entropy; without alignment losses the cross-entropy has weight 1.
        settings: Optimisation settings.
        weights: Share of each training manifest in an epoch; None: every row once.

    Equation: 2 (no objective) and 6.
    Gradient: through the speech branch; the text branch is computed without gradient.
    """

    # Theirs, narrower here than they can know.
    model: Any
    data_collator: Any
    train_dataset: Any

    def __init__(
        self, *, objective: Alignment, alpha: float, settings: TrainSettings, output: Path, seed: int,
        num_workers: int = 0, weights: list[float] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(args=training_arguments(output, settings, seed, num_workers), **kwargs)
        self.objective: Alignment = objective
        self.alpha, self.settings = alpha, settings
        self.weights, self.padding_waste = weights, 0.0
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self._parts: dict[str, Tensor | float] = defaultdict(float)
        self._parts_since = 0
        self.pop_callback(ProgressCallback)
        self.add_callback(Progress())
        self.add_callback(StopOnSignal())
        if settings.patience:
            self.add_callback(EarlyStoppingCallback(early_stopping_patience=settings.patience))

    # ---- the loss ----

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return alpha CE + (1 - alpha) mean_l W_l (Eq. 6) for one micro-batch."""
        ids = inputs.pop("ids", None)
        text = {name: inputs.pop(name) for name in TEXT_BRANCH if name in inputs}
        outputs = model(**inputs, capture_layers=self.objective.layers, num_items_in_batch=num_items_in_batch)
        loss = outputs.loss
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        if not self._parts:
            self._parts_since = self.state.global_step
        self._parts["ce"] += loss.detach()
        if self.objective.layers:
            parts = self.objective(self._paired_states(outputs, text))
            for name, value in parts.items():
                self._parts[name] += value.detach() / self.current_gradient_accumulation_steps
            alignment = torch.stack(list(parts.values())).mean() / self.current_gradient_accumulation_steps
            loss = self.alpha * loss + (1 - self.alpha) * alignment
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            raise TrainingError(
                f"The loss is not finite at step {self.state.global_step}.",
                got=f"{loss.item()}; utterances {ids}",
                advice="Lower the learning rate, raise alignment.alpha, or look at these utterances.",
            )
        return (loss, outputs) if return_outputs else loss

    def _paired_states(self, outputs: Any, text: dict[str, Tensor]) -> PairedStates:
        """Take the speech span of the speech branch and the transcript span of the text branch."""
        model = self.accelerator.unwrap_model(self.model)
        text_states = model.text_states(
            text["transcript_input_ids"], text["transcript_attention_mask"], self.objective.layers
        )
        speech = {
            layer: take_span(state, outputs.speech_mask) for layer, state in outputs.hidden_states.items()
        }
        transcript = {
            layer: take_span(state, text["transcript_mask"]) for layer, state in text_states.items()
        }
        transcript_ids, text_mask = take_span(text["transcript_input_ids"], text["transcript_mask"])
        return PairedStates(
            speech={layer: states for layer, (states, _) in speech.items()},
            speech_mask=next(iter(speech.values()))[1],
            text={layer: states for layer, (states, _) in transcript.items()},
            text_mask=text_mask,
            transcript_ids=transcript_ids,
        )

    # ---- order, schedule, weight decay ----

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        sampler = LengthGroupedSampler(
            dataset.lengths,
            self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
            self.args.seed,
            groups=dataset.sources if self.weights else None,
            weights=dict(enumerate(self.weights)) if self.weights else None,
            on_epoch=self.data_collator.set_epoch,
        )
        self.padding_waste = sampler.padding_waste()
        return sampler

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Use our schedule (DESIGN decision 8)."""
        if self.lr_scheduler is None:
            peak = self.settings.learning_rate
            target: Any = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                target, lambda step: learning_rate(step, self.settings) / peak
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Decay matrices and queries; never biases and LayerNorms (SALMONN.md section 6)."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]

    # ---- seeing it run ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of every part of the loss since the last log."""
        if "loss" in logs:
            steps = max(1, self.state.global_step - self._parts_since)
            logs |= {name: float(total) / steps for name, total in self._parts.items()}
            self._parts.clear()
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict:
        """Validate with teacher forcing.

        Returns:
            ``eval_token_accuracy``: correct / all target tokens of the set, end token included (micro
            average, DESIGN decision 10), and ``eval_loss``: cross-entropy per target token.
        """
        start, was_training = time.perf_counter(), self.model.training
        self.model.eval()
        totals = torch.zeros(3, dtype=torch.float64, device=self.args.device)
        for batch in self.get_eval_dataloader(eval_dataset):
            batch = {key: value for key, value in batch.items() if key not in (*TEXT_BRANCH, "ids")}
            totals += self._token_counts(self._prepare_inputs(batch))
        self.model.train(was_training)
        correct, count, loss = self.accelerator.reduce(totals, reduction="sum").tolist()
        metrics = {
            f"{metric_key_prefix}_{METRIC}": correct / max(count, 1),
            f"{metric_key_prefix}_loss": loss / max(count, 1),
            f"{metric_key_prefix}_seconds": time.perf_counter() - start,
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def _token_counts(self, batch: dict[str, Tensor]) -> Tensor:
        """Return (correct target tokens, target tokens, summed cross-entropy) of a batch."""
        labels = batch["labels"][:, 1:]
        with self.compute_loss_context_manager():
            outputs = self.model(**batch)
        target = labels != -100
        correct = (outputs.logits[:, :-1].argmax(-1) == labels) & target
        count = target.sum()
        return torch.stack([correct.sum(), count, outputs.loss * count]).double()

    # ---- checkpoints: trained tensors only, complete or not at all ----

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            (Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}" / COMPLETE).touch()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.accelerator.unwrap_model(model or self.model).load_trainable(
            read_trained(Path(resume_from_checkpoint))
        )

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))


def last_checkpoint(output: Path) -> str | None:
    """Return the newest complete checkpoint of a run and delete those a crash left half-written."""
    folders = sorted(
        (output / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])
    )
    for folder in folders:
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder)
    complete = [folder for folder in folders if folder.exists()]
    return str(complete[-1]) if complete else None
