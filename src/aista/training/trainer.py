"""A thin ``transformers.Trainer``: the objective, the schedule, small checkpoints.

What is ours: what is trained (``aista.training.objective``), the learning rate, the order of batches,
checkpoints of trained tensors only, and a validation that reports token accuracy. Everything else (loops,
engines, mixed precision, logging) is theirs.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import EarlyStoppingCallback
from transformers.trainer_callback import ProgressCallback

from aista import processes
from aista.config import TrainSettings
from aista.data.sampling import LengthGroupedSampler
from aista.speech_llm import Batch
from aista.training.arguments import METRIC, require_whole_steps, training_arguments
from aista.training.callbacks import Progress, StopOnSignal
from aista.training.checkpointing import CheckpointingTrainer
from aista.training.journal import Journal
from aista.training.meter import Meter
from aista.training.nonfinite import FiniteLosses
from aista.training.objective import SpeechTextObjective
from aista.training.parts import split_by_part
from aista.training.schedule import learning_rate


class AistaTrainer(CheckpointingTrainer):
    """Train a :class:`SpeechTextObjective`: a speech LLM and an alignment method.

    Args:
        model: The objective; its ``model`` is what a finished run keeps.
        settings: Optimisation settings.
        output: The run's folder.
        weights: Share of each training manifest in an epoch; None: every row once.
    """

    # Theirs, narrower here than they can know.
    model: Any
    data_collator: Any
    train_dataset: Any
    metric: ClassVar[str] = METRIC

    def __init__(
        self, *, model: SpeechTextObjective, settings: TrainSettings, output: Path, seed: int,
        num_workers: int = 0, weights: list[float] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        args = training_arguments(output, settings, seed, num_workers, self.metric)
        # Several GPUs want a launcher: DataParallel would tear a batch from its numbers.
        args._n_gpu = min(args.n_gpu, 1)
        require_whole_steps(model.alignment, args.gradient_accumulation_steps)
        super().__init__(model=model, args=args, **kwargs)
        self.settings = settings
        self.weights, self.padding_waste = weights, 0.0
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self._num_pairs: Tensor | float = 0.0  # usable pairs of the step
        self._parts: dict[str, Tensor | float] = defaultdict(float)
        self._weights: dict[str, Tensor | float] = defaultdict(float)
        self._parts_since = 0
        self.finite, self.meter = FiniteLosses(output, settings.nonfinite), Meter()
        self._descended = -1  # the last step one of whose micro-batches gave a gradient
        self.pop_callback(ProgressCallback)
        self.progress = Progress()
        self.add_callback(self.progress)
        self.add_callback(Journal(output))
        self.add_callback(StopOnSignal())
        if settings.patience:
            self.add_callback(EarlyStoppingCallback(early_stopping_patience=settings.patience))

    # ---- the loss ----

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Take the micro-batches of a step, and count its targets and its usable pairs over all processes."""
        samples, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = [self.trained_module.usable_pairs(batch["speech"], batch["text"]) for batch in samples]
        pairs = torch.stack(counts).sum().to(self.args.device) if counts else torch.zeros((), device=device)
        # Engines average the gradients of the processes; the pairs are counted over all of them.
        self._num_pairs = self.accelerator.reduce(pairs.float(), reduction="mean").clamp(min=1e-9)
        return samples, num_items

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Go one micro-batch down; a step whose every micro-batch was skipped leaves no trace.

        Without gradients the optimiser has nothing to do; zeros would still feed momentum and weight decay
        (as they do under DeepSpeed, which keeps the gradients to itself).
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._descended < self.state.global_step:
            for parameter in model.parameters():
                parameter.grad = None
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the objective's loss for one micro-batch, and keep its parts for the log."""
        ids = inputs.get("ids")
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # Engines average the gradients of the processes; the tokens were counted over all of them.
            num_items_in_batch = num_items_in_batch / self.accelerator.num_processes
        self.meter.note(inputs["speech"].attention_mask)
        joint = model(
            speech=inputs["speech"],
            text=inputs["text"],
            num_items_in_batch=num_items_in_batch,
            num_pairs=self._num_pairs,
        )
        if not self.finite.allow(self.state.global_step, joint.loss, ids):
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            nothing = torch.stack([parameter.sum() for parameter in trained]).sum() * 0.0
            return (nothing, joint) if return_outputs else nothing
        self._descended = self.state.global_step
        if not self._parts:
            self._parts_since = self.state.global_step
        for name, value in joint.parts.items():
            weight = joint.weights.get(name)
            self._parts[name] += value if weight is None else value * weight
            if weight is not None:
                self._weights[name] += weight
        return (joint.loss, joint) if return_outputs else joint.loss

    # ---- order, schedule, weight decay ----

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        sampler = LengthGroupedSampler(
            dataset.lengths,
            self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
            self.args.seed,
            groups=dataset.sources if self.weights else None,
            weights=dict(enumerate(self.weights)) if self.weights else None,
            blocks=dataset.archives,
            on_epoch=self.data_collator.set_epoch,
        )
        self.padding_waste = sampler.padding_waste()
        if processes.is_main():
            Console(stderr=True).print(f"training data: {dataset.describe(sampler)}")
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

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Make the optimiser, with learning rates of their own for the parts that have one."""
        optimizer = super().create_optimizer(*args, **kwargs)
        given = self.settings.learning_rates.model_dump().items()
        if rates := {part: rate for part, rate in given if rate is not None}:
            split_by_part(optimizer, self.model.named_parameters(), rates)
        return optimizer

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Decay matrices and queries; never biases and LayerNorms (SALMONN.md section 6)."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]

    # ---- seeing it run ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the loss's parts since the last log, over steps and processes, and the speed.

        Losses are means over steps, figures such as token accuracy ratios of sums over all of them.
        """
        if "loss" in logs:
            self.finite.check()
            steps = max(1, self.state.global_step - self._parts_since)
            totals = [float(total) for total in self._parts.values()]
            weights = [float(self._weights.get(name, steps)) for name in self._parts]
            sent = torch.tensor([*totals, *weights, *self.meter.counts()], dtype=torch.float64)
            sums = self.accelerator.reduce(sent.to(self.args.device), reduction="sum").tolist()
            counts = sums[2 * len(totals) :]
            rows = zip(self._parts, sums, sums[len(totals) :], strict=False)
            logs |= {name: total / max(weight, 1) for name, total, weight in rows}
            logs |= self.meter.read(counts)
            self.progress.shown |= self._parts.keys()
            self._parts.clear()
            self._weights.clear()
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict:
        """Validate; returns what :meth:`validation_metrics` does, each name with the prefix, and the time."""
        self.finite.check()
        start, was_training = time.perf_counter(), self.model.training
        self.model.eval()
        found = self.validation_metrics(eval_dataset)
        self.model.train(was_training)
        seconds = {"seconds": time.perf_counter() - start}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in (found | seconds).items()}
        self.meter.pause(time.perf_counter() - start)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def validation_metrics(self, dataset: Any) -> dict[str, float]:
        """Return ``token_accuracy``: correct / all target tokens of the set under teacher forcing, end token
        included (micro average, decision 10), and ``loss``: cross-entropy per target token.
        """
        totals = torch.zeros(3, dtype=torch.float64, device=self.args.device)
        for batch, share in self._validation_batches(dataset):
            totals += share * self._token_counts(batch["speech"].to(self.args.device))
        correct, count, loss = self.accelerator.reduce(totals, reduction="sum").tolist()
        return {METRIC: correct / max(count, 1), "loss": loss / max(count, 1)}

    def _validation_batches(self, dataset: Any) -> Iterator[tuple[dict[str, Any], int]]:
        """Deal the validation batches out: every row counts once, whatever the number of processes.

        Yields:
            A batch and its weight. All processes get equally many batches, since a sharded model runs in all
            of them or in none; those that make up the number weigh 0.
        """
        dataset = self.eval_dataset if dataset is None else dataset
        size, mine, ranks = self.args.eval_batch_size, self.args.process_index, self.args.world_size
        starts = range(0, len(dataset), size)
        rounds = -(-len(starts) // ranks)
        order = [(turn * ranks + mine) % len(starts) for turn in range(rounds)]
        loader = DataLoader(
            dataset,
            batch_sampler=[list(range(starts[i], min(starts[i] + size, len(dataset)))) for i in order],
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
        )
        for turn, batch in enumerate(loader):
            yield batch, int(turn * ranks + mine < len(starts))

    @torch.no_grad()
    def _token_counts(self, batch: Batch) -> Tensor:
        """Return (correct target tokens, target tokens, summed cross-entropy) of a batch."""
        with self.compute_loss_context_manager():
            parts = self.model(speech=batch).parts
        return torch.stack([parts["correct"], parts["tokens"], parts["ce"]]).double()
