"""Checkpoints of a trainer: trained tensors only, complete or not at all, the same under every engine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import save_fsdp_optimizer
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer
from transformers.integrations.deepspeed import deepspeed_load_checkpoint

from aista import processes
from aista.training.meter import Meter
from aista.training.nonfinite import FiniteLosses
from aista.training.objective import SpeechTextObjective
from aista.training.saves import complete, writing


class CheckpointingTrainer(Trainer):
    """Keep and load what is trained; the bases are frozen, and are loaded again from where they came.

    Attributes:
        finite: Asked before anything is kept.
        meter: Told how long keeping took.
    """

    finite: FiniteLosses
    meter: Meter

    @property
    def trained_module(self) -> SpeechTextObjective:
        """What is trained, out of what an engine may have wrapped around it."""
        return self.accelerator.unwrap_model(self.model)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save what is trained; of a sharded model it is gathered first, and nothing else is."""
        state = self.trained_module.kept_state()
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            with writing(folder):
                self.trained_module.save(folder, state)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.finite.check()
        start = time.perf_counter()
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        with writing(folder, torn=folder):
            super()._save_checkpoint(model, trial)
        processes.wait()  # for what the others keep: their random states, their shares of the optimiser
        if self.args.should_save:
            complete(folder, self.state.best_model_checkpoint)
        self.meter.pause(time.perf_counter() - start)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Keep the state of what is trained; under FSDP and DeepSpeed, theirs would keep the bases too."""
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        if self.is_fsdp_enabled:
            plugin = self.accelerator.state.fsdp_plugin
            save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        else:
            engine: Any = self.model_wrapped
            engine.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        if self.args.should_save and self.lr_scheduler is not None:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any
    ) -> Any:
        if self.is_fsdp_enabled:  # autocast decides the types of the arithmetic, as without an engine
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
        if not (self.is_deepspeed_enabled and resume_from_checkpoint):
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self._load_from_checkpoint(resume_from_checkpoint)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_deepspeed_enabled:  # the optimiser's state comes with it
            deepspeed_load_checkpoint(self.model_wrapped, resume_from_checkpoint, load_module_strict=False)
        else:
            self.accelerator.unwrap_model(model or self.model).load(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))
