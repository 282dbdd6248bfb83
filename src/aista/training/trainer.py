"""The training loop, from top to bottom: the rows of a step, forward, backward, update, log, validate, save.

accelerate prepares model and optimiser for one process, DDP, FSDP2 or DeepSpeed. Of transformers there are
the records (``TrainerState``) and the callbacks' protocol, so that trackers work; its Trainer is not used
(docs/decisions/training-loop.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from rich.console import Console
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import DataLoader
from transformers import TrainerControl, TrainerState
from transformers.integrations import get_reporting_integration_callbacks

from aista import processes, retrieval
from aista.config import TrainSettings
from aista.data.dataset import Collator, SpeechDataset
from aista.data.sampling import LengthGroupedSampler
from aista.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    CorruptDataError,
    ManifestError,
    ModelInputError,
    TrainingError,
)
from aista.retrieval.tokens import under_cost
from aista.speech_llm import Batch
from aista.text.normalize import edit_distance
from aista.training import checkpointing
from aista.training.callbacks import Clock, FiniteLosses, Journal, Meter, Progress, StopOnSignal, Sums
from aista.training.checkpointing import complete, writing
from aista.training.objective import SpeechTextObjective
from aista.training.optimisation import (
    learning_rate,
    require_one_kind,
    require_whole_steps,
    split_by_part,
    training_arguments,
)


class _StoppedInValidation(Exception):
    """A signal came to one of the processes: all leave the validation at the same batch."""


@dataclass(frozen=True)
class TrainingData:
    """What a run trains and validates on.

    Attributes:
        weights: Share of each training manifest in an epoch; None: every row once.
        num_workers: Processes that read and decode, for each training process.
    """

    train: SpeechDataset
    validation: SpeechDataset | None
    collator: Collator
    weights: list[float] | None = None
    num_workers: int = 0

    def collator_of(self, dataset: SpeechDataset) -> Collator:
        """Return the collator; what is validated is always asked in one wording, as evaluation does."""
        return self.collator if dataset is self.train else self.collator.in_one_wording()


@dataclass(frozen=True)
class Share:
    """One process's micro-batch: dataset rows, and whether they count.

    Rows that do not count stand in where another process has more micro-batches than this one: a sharded
    model runs in all processes or in none.
    """

    rows: list[int]
    counted: bool


class AistaTrainer:
    """Train a :class:`SpeechTextObjective`: a speech LLM and an alignment method.

    A step's rows, its losses and its gradients are the same for any number of processes and micro-batches.
    Checkpoints keep the state of a run to the last bit.

    Args:
        objective: Its ``model`` is what a finished run keeps.
        output: The run's folder.
        seed: Of the order of rows.

    Raises:
        ConfigError: The global batch does not divide among the processes, or the alignment needs whole steps.

    Attributes:
        metric: Of the validation that decides which model is kept; larger is better.
    """

    metric = "token_accuracy"

    def __init__(
        self,
        objective: SpeechTextObjective,
        settings: TrainSettings,
        output: Path,
        seed: int,
        data: TrainingData,
    ) -> None:
        self.args = training_arguments(output, settings, seed)
        require_whole_steps(objective.alignment, self.args.gradient_accumulation_steps)
        self.settings, self.output, self.data = settings, output, data
        device = self.args.device  # asking starts torch's group, and forgets the engine of an earlier run
        precision = self.args.mixed_precision
        unused = DistributedDataParallelKwargs(find_unused_parameters=not settings.activation_checkpointing)
        self.accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[unused])
        self.sharded = self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        together = self.sharded or settings.activation_checkpointing or objective.alignment.over_batch
        require_one_kind(data.train, together=together and processes.count() > 1)
        # What is prepared below is wrapped; a sharded one moves to its devices by then.
        self.model: Any = objective if self.sharded else objective.to(device)
        self.optimizer: Any = None
        self.peak_rates: list[float] = []

        self.micro_batch = settings.per_device_train_batch_size
        self.step_rows = self.micro_batch * self.args.gradient_accumulation_steps * processes.count()
        self.sampler = LengthGroupedSampler(
            data.train.lengths,
            self.step_rows,
            seed,
            groups=data.train.sources if data.weights else None,
            weights=dict(enumerate(data.weights)) if data.weights else None,
            blocks=data.train.archives,
        )
        self.steps_per_epoch = -(-len(self.sampler) // self.step_rows)

        main = processes.is_main()
        self.state = TrainerState(max_steps=settings.max_steps)
        self.state.is_world_process_zero = self.state.is_local_process_zero = main
        self.control, self.grad_norm = TrainerControl(), 0.0
        self.finite, self.meter, self.sums = FiniteLosses(output, settings.nonfinite), Meter(), Sums()
        self.progress, self.stop = Progress(), StopOnSignal()
        trackers = [kind() for kind in get_reporting_integration_callbacks(settings.report_to)]
        self.callbacks = [self.progress, Journal(output), self.stop, *trackers]

    @property
    def trained_module(self) -> SpeechTextObjective:
        """What is trained, out of what an engine may have wrapped around it."""
        return self.accelerator.unwrap_model(self.model)

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """Return what the optimiser moves."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    # ---- the loop ----

    def train(self, checkpoint: Path | None = None) -> None:
        """Train to the end of the settings, or until a signal or a lack of progress stops it.

        Args:
            checkpoint: A complete checkpoint to go on from.

        Afterwards the model is the best one, where there were validations; after a signal it is the last one.
        """
        if processes.is_main():
            told = f"training data: {self.data.train.describe(self.sampler)}"
            Console(stderr=True, emoji=False).print(told, markup=False)
        self.clock = Clock(self.output)
        self.prepare()
        random = None if checkpoint is None else checkpointing.load(self, checkpoint)
        self.tell("on_train_begin")
        settled = random or checkpointing.random_state()
        try:
            if checkpoint is not None and self.owes_validation():
                checkpointing.restore(settled)
                self.evaluate()
                random = settled = checkpointing.random_state()
                self.save()
            while not self.is_over():
                epoch, done = divmod(self.state.global_step, self.steps_per_epoch)
                for step in self.steps_of(epoch, done, random):
                    self.step(step)
                    settled = checkpointing.random_state()
                    self.after_step()
                    settled = checkpointing.random_state()
                    if self.is_over():
                        break
                random = None
        except (AudioError, CheckpointError, CorruptDataError, ManifestError, ModelInputError):
            # Of a row, or of its features; what was learnt before is kept, as it was before that row was met.
            if not self.is_saved() and processes.count() == 1:
                checkpointing.restore(settled)
                self.save()
            raise
        finally:
            self.stop.on_train_end()  # however it ends, the signals are the caller's again
            self.clock.keep()
        if not self.stop.stopped:
            self.log({"train_loss": self.sums.total_loss() / max(self.state.global_step, 1)})
            if self.state.best_model_checkpoint is not None:
                checkpointing.load_weights(self, Path(self.state.best_model_checkpoint))
        self.tell("on_train_end")

    def is_saved(self) -> bool:
        """Whether there is nothing that a checkpoint does not hold."""
        folder = self.output / "checkpoints" / f"checkpoint-{self.state.global_step}"
        return self.state.global_step == 0 or (folder / checkpointing.COMPLETE).exists()

    def owes_validation(self) -> bool:
        """Whether the checkpoint's own validation was broken off, by an unreadable clip or a signal."""
        step, every = self.state.global_step, self.settings.eval_steps
        is_due = every is not None and step > 0 and (step % every == 0 or step == self.settings.max_steps)
        metric = f"eval_{self.metric}"
        return is_due and not any(row["step"] == step and metric in row for row in self.state.log_history)

    def is_over(self) -> bool:
        """Say whether the run has come to its end, was stopped, or has long not got better."""
        if self.state.global_step >= self.settings.max_steps or self.control.should_training_stop:
            return True
        if self.settings.patience is None:
            return False
        name = f"eval_{self.metric}"
        checks = [row[name] for row in self.state.log_history if name in row]
        return bool(checks) and len(checks) - 1 - checks.index(max(checks)) >= self.settings.patience

    def prepare(self) -> None:
        """Make the optimiser, and let the engine wrap both."""
        objective, settings = self.model, self.settings
        if settings.activation_checkpointing:
            objective.model.activation_checkpointing_enable()
        trained = self.trained_parameters()
        groups = [  # matrices and queries decay; biases and LayerNorms never do
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        betas = settings.adam_beta1, settings.adam_beta2
        optimizer = torch.optim.AdamW(
            groups, lr=settings.learning_rate, betas=betas, eps=settings.adam_epsilon, fused=True
        )
        rates = settings.learning_rates.model_dump(exclude_none=True)
        split_by_part(optimizer, objective.named_parameters(), rates)
        self.peak_rates = [group["lr"] for group in optimizer.param_groups]
        if self.accelerator.distributed_type == DistributedType.FSDP:
            # Autocast decides the types of the arithmetic, as without an engine.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            plugin = self.accelerator.state.deepspeed_plugin
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = self.micro_batch
        self.model, self.optimizer = self.accelerator.prepare(objective, optimizer)

    # ---- a step ----

    def steps_of(
        self, epoch: int, done: int, random: checkpointing.RandomState | None
    ) -> Iterator[list[tuple[dict[str, Any], bool]]]:
        """Go through the steps of an epoch that are left.

        Args:
            done: Steps of the epoch that were done before.
            random: State of the generators to go on from.

        Yields:
            This process's micro-batches of a step, and whether each counts.
        """
        self.data.collator.set_epoch(epoch)
        rows = self.sampler.order(epoch)
        starts = range(done * self.step_rows, len(rows), self.step_rows)
        steps = [own_shares(rows[i : i + self.step_rows].tolist(), self.micro_batch) for i in starts]
        loader = self.loader(self.data.train, [share.rows for step in steps for share in step])
        if random is not None and not done:
            checkpointing.restore(random)
        batches = iter(loader)  # draws a number, once an epoch
        if random is not None and done:
            checkpointing.restore(random)
        for step in steps:
            yield [(next(batches), share.counted) for share in step]

    def loader(self, dataset: SpeechDataset, batches: list[list[int]]) -> DataLoader:
        """Read these batches in this order."""
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=self.data.collator_of(dataset),
            num_workers=self.data.num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def step(self, micro_batches: list[tuple[dict[str, Any], bool]]) -> None:
        """Take one optimisation step: sums over all its rows, divided by the targets and pairs among them."""
        module = self.trained_module
        module.train()
        own = [batch for batch, counts in micro_batches if counts]
        targets = sum(batch["speech"].num_targets for batch in own)
        pairs = sum(int(module.usable_pairs(batch["speech"], batch["text"])) for batch in own)
        # Engines average over processes; targets and pairs are those of all of them.
        counted = torch.tensor([targets, pairs], dtype=torch.float32, device=self.accelerator.device)
        num_targets, num_pairs = self.accelerator.reduce(counted, reduction="mean").clamp(min=1e-9)
        share_of_peak = learning_rate(self.state.global_step, self.settings) / self.settings.learning_rate
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * share_of_peak
        descended = False
        for turn, (batch, counts) in enumerate(micro_batches):
            self.accelerator.sync_gradients = turn == len(micro_batches) - 1
            with nullcontext() if self.accelerator.sync_gradients else self.accelerator.no_sync(self.model):
                loss, is_finite = self.compute_loss(batch, counts, num_targets, num_pairs)
                descended = descended or is_finite
                self.backward(loss, is_finite)
        if descended:  # else no trace is left: zeros would still feed momentum and weight decay
            self.clip_gradients()
            self.optimizer.step()
        self.optimizer.zero_grad()

    def backward(self, loss: Tensor, is_finite: bool) -> None:
        """Add a loss's gradient; of one that is not finite zeros, since processes wait for gradients."""
        trained = [] if is_finite else self.trained_parameters()
        hooks = []
        if trained and self.sharded:
            loss = torch.stack([parameter.sum() for parameter in trained]).sum() * 0.0
        elif trained:  # through its own graph: DDP knows which parameters it used
            hooks = [parameter.register_hook(torch.zeros_like) for parameter in trained]
        self.accelerator.backward(loss)
        for hook in hooks:
            hook.remove()

    def compute_loss(
        self, batch: dict[str, Any], counted: bool, num_targets: Tensor, num_pairs: Tensor
    ) -> tuple[Tensor, bool]:
        """Return the loss of a micro-batch, and whether it is to be descended; keep its parts for the log."""
        device = self.accelerator.device
        speech: Batch = batch["speech"].to(device)
        text: Batch | None = None if batch["text"] is None else batch["text"].to(device)
        self.meter.note(speech.attention_mask)
        joint = self.model(
            speech=speech, text=text, num_items_in_batch=num_targets, num_pairs=num_pairs, counted=counted
        )
        is_finite = self.finite.allow(self.state.global_step, joint.loss, batch.get("ids"))
        if is_finite:
            self.sums.add({"loss": joint.loss.detach(), **joint.parts}, joint.weights)
        return joint.loss, is_finite

    def clip_gradients(self) -> None:
        """Bound the gradient's norm where the settings say so, and note it where it will be logged."""
        bound = self.settings.max_grad_norm
        if bound > 0 or (self.state.global_step + 1) % self.settings.logging_steps == 0:
            norm = self.accelerator.clip_grad_norm_(self.model.parameters(), bound or float("inf"))
            self.grad_norm = float("nan") if norm is None else float(norm)

    # ---- after a step ----

    def after_step(self) -> None:
        """Count the step; log, validate and save where it is time."""
        self.state.global_step += 1
        self.state.epoch = self.state.global_step / self.steps_per_epoch
        step, settings = self.state.global_step, self.settings
        last = step == settings.max_steps
        self.control.should_save = False
        self.tell("on_step_end")
        if step % settings.logging_steps == 0:
            self.finite.check()
            means = self.sums.read(step)
            self.progress.shown |= means.keys() - {"loss"}
            rate = learning_rate(step - 1, settings)
            self.log({**means, "grad_norm": self.grad_norm, "learning_rate": rate, **self.meter.read()})
        if settings.eval_steps and (step % settings.eval_steps == 0 or last):
            self.evaluate()
        is_best = self.state.best_global_step == step  # saved whatever save_steps says: it is the one to keep
        if step % settings.save_steps == 0 or last or is_best or self.control.should_save:
            self.save()

    def log(self, row: dict[str, float]) -> None:
        """Add a row to the history, and show it to progress bar, journal and trackers."""
        row = {**row, "epoch": self.state.epoch}
        self.state.log_history.append({**row, "step": self.state.global_step})
        self.tell("on_log", logs=dict(row))

    def tell(self, event: str, **more: Any) -> None:
        """Call every callback, as transformers' Trainer does."""
        for callback in self.callbacks:
            known = {"model": self.trained_module.model, "optimizer": self.optimizer, **more}
            getattr(callback, event)(self.args, self.state, self.control, **known)

    def evaluate(self) -> None:
        """Validate, log what :meth:`validation_metrics` returns, and note a new best.

        After a signal nothing is noted, and the run that goes on from the checkpoint validates first.
        """
        self.finite.check()
        start, module = time.perf_counter(), self.trained_module
        before = checkpointing.random_state()
        module.eval()
        try:
            found = self.validation_metrics()
        except _StoppedInValidation:
            checkpointing.restore(before)  # of the run that is not stopped, when it comes to this validation
            self.control.should_save = self.control.should_training_stop = True
            return
        seconds = time.perf_counter() - start
        self.meter.pause(seconds)
        row = {f"eval_{name}": value for name, value in {**found, "seconds": seconds}.items()}
        self.log(row)
        if self.state.best_metric is None or found[self.metric] > self.state.best_metric:
            self.state.best_metric, self.state.best_global_step = found[self.metric], self.state.global_step
        self.tell("on_evaluate", metrics=row)

    @torch.no_grad()
    def validation_metrics(self) -> dict[str, float]:
        """Return ``token_accuracy``: correct / all target tokens of the set under teacher forcing, end token
        included (micro average), and ``loss``: cross-entropy per target token.
        """
        totals = torch.zeros(3, dtype=torch.float64, device=self.accelerator.device)
        for batch, counted in self.validation_batches():
            parts = self.trained_module(speech=batch["speech"].to(self.accelerator.device)).parts
            totals += counted * torch.stack([parts["correct"], parts["tokens"], parts["ce"]]).double()
        correct, count, loss = self.accelerator.reduce(totals, reduction="sum").tolist()
        return {self.metric: correct / max(count, 1), "loss": loss / max(count, 1)}

    def validation_batches(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Deal the validation batches out, each with its weight: every row counts once.

        All processes get equally many batches; those that make up the number weigh 0.
        """
        dataset: Any = self.data.validation
        size = self.settings.per_device_eval_batch_size
        batches = [list(range(i, min(i + size, len(dataset)))) for i in range(0, len(dataset), size)]
        turns = own_turns(len(batches))
        loader = self.loader(dataset, [batches[k % len(batches)] for k in turns])
        for k, batch in zip(turns, loader, strict=True):
            if self.stop.heard():
                raise _StoppedInValidation
            yield batch, int(k < len(batches))

    def save(self) -> None:
        """Write a checkpoint, complete or not at all; keep it, the one before it and the best."""
        self.finite.check()
        self.require_finite_weights()
        start = time.perf_counter()
        folder = self.output / "checkpoints" / f"checkpoint-{self.state.global_step}"
        best = folder.with_name(f"checkpoint-{self.state.best_global_step}")
        if best == folder or best.is_dir():
            self.state.best_model_checkpoint = str(best)
        with writing(folder, torn=folder):
            checkpointing.save(self, folder)
        processes.wait()  # for what the others keep: their random states, their shares of the optimiser
        if processes.is_main():
            complete(folder, self.state.best_model_checkpoint)
            self.clock.keep()
        self.meter.pause(time.perf_counter() - start)

    def require_finite_weights(self) -> None:
        """Refuse to keep what a gradient that was not finite has left, though its loss was.

        Raises:
            TrainingError: The checkpoints before are whole.
        """
        if processes.any_of(not all(bool(p.detach().isfinite().all()) for p in self.trained_parameters())):
            raise TrainingError(
                f"The weights are not finite at step {self.state.global_step}, though the losses were.",
                advice="Set train.max_grad_norm, or lower the learning rate; the last checkpoint is whole.",
            )

    def save_model(self, folder: Path) -> None:
        """Save what is trained; of a sharded model it is gathered first, and nothing else is."""
        state = self.trained_module.kept_state()
        if processes.is_main():
            with writing(folder):
                self.trained_module.save(folder, state)


class AlignTrainer(AistaTrainer):
    """Validates by retrieval: the MRR (Eq. 4) of the held-out pairs, the mean over the aligned layers.

    Where the method can be read (CTC), it is read: ``token_accuracy`` is 1 minus the token error rate of its
    greedy answers, among the tokens of the batch, and decides which model is kept.

    Raises:
        ConfigError: A row has no sound.
    """

    metric = "mrr"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        if self.trained_module.alignment.read:
            self.metric = "token_accuracy"
        for dataset in filter(None, (self.data.train, self.data.validation)):
            if not dataset.has_sound.all():
                row = dataset.utterance(int((~dataset.has_sound).argmax()))
                raise ConfigError(
                    "An alignment needs the sound of every text.",
                    got=f"{int((~dataset.has_sound).sum())} rows of task mt, e.g. {row.id!r}",
                    advice="Keep texts without sound for `aista pretrain` and `aista joint`.",
                )

    @torch.no_grad()
    def validation_metrics(self) -> dict[str, float]:
        """Return ``mrr`` by the cost that is trained, what chance would give, and what could be read."""
        objective: Any = self.trained_module
        device = self.accelerator.device
        found: list[tuple[dict[int, Tensor], dict[int, Tensor], tuple[int, ...], list[int] | None]] = []
        read = objective.alignment.read
        for batch, share in self.validation_batches():
            states = objective.pairs(batch["speech"].to(device), batch["text"].to(device))
            answers = read(states) if read and share else [None] * len(states.speech_mask)
            for row in range(len(states.speech_mask) * share):
                heard, written = states.speech_mask[row], states.text_mask[row]
                if heard.any() and written.any():
                    speech = {layer: side[row][heard].float().cpu() for layer, side in states.speech.items()}
                    text = {layer: side[row][written].float().cpu() for layer, side in states.text.items()}
                    ids = tuple(states.transcript_ids[row][written].tolist())
                    found.append((speech, text, ids, answers[row]))
        pairs = [pair for share in processes.gather(found) for pair in share]
        cost = getattr(objective.alignment, "cost", "squared_euclidean")
        texts = [ids for _, _, ids, _ in pairs]
        values = []
        for layer in objective.alignment.layers:
            sides = [pair[0][layer] for pair in pairs], [pair[1][layer] for pair in pairs]
            values.append(retrieval.exact_ranks(*under_cost(*sides, cost), texts=texts).mrr)
        result = {"mrr": sum(values) / len(values), "mrr_by_chance": retrieval.chance_mrr(len(pairs), texts)}
        if read:
            edits = sum(edit_distance(answer or (), ids) for _, _, ids, answer in pairs)
            result["token_accuracy"] = 1.0 - edits / max(sum(map(len, texts)), 1)
        return result


def own_turns(count: int) -> range:
    """Say which of a number of things are this process's, dealt out in turn; all get equally many."""
    ranks = processes.count()
    return range(processes.rank(), -(-count // ranks) * ranks, ranks)


def own_shares(rows: list[int], size: int) -> list[Share]:
    """Cut the rows of a step into micro-batches of a size, and return this process's, dealt out in turn."""
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    turns = own_turns(len(parts))
    return [Share(parts[k], True) if k < len(parts) else Share(parts[0], False) for k in turns]
