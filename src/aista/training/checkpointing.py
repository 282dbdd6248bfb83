"""Checkpoints of a run: trained tensors, the optimiser, random states, the record of the run; no bases.

On disk a checkpoint is complete or not at all, and where the disk refuses, clear words say so."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import DistributedType, load_fsdp_optimizer, save_fsdp_optimizer
from safetensors import SafetensorError
from transformers import TrainerState

from aista import processes
from aista.errors import TrainingError
from aista.files import DISK_WORDS, crc32_of, write_whole

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from aista.training.trainer import AistaTrainer

_CHECKPOINT = re.compile(r"checkpoint-\d+")
OPTIMIZER, STATE, SUMS, COMPLETE = "optimizer.pt", "trainer_state.json", "sums.json", "COMPLETE"


RandomState = dict[str, Any]
"""States of all random generators of a process."""


def random_state() -> RandomState:
    """Take the states of the generators as they are."""
    name, keys, *rest = np.random.get_state()
    numpy = (name, np.asarray(keys).tolist(), *rest)  # torch loads lists without pickle, arrays not
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"python": random.getstate(), "numpy": numpy, "cpu": torch.get_rng_state(), "cuda": cuda}


def restore(state: RandomState) -> None:
    """Set the generators."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def save(trainer: AistaTrainer, folder: Path) -> None:
    """Write a checkpoint; every process writes its part."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer.save_model(folder)
    kind = trainer.accelerator.distributed_type
    if kind == DistributedType.FSDP:
        plugin = trainer.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, trainer.accelerator, trainer.optimizer, trainer.model, str(folder))
    elif kind == DistributedType.DEEPSPEED:
        trainer.model.save_checkpoint(str(folder), exclude_frozen_parameters=True)
    elif processes.is_main():
        torch.save(trainer.optimizer.state_dict(), folder / OPTIMIZER)
    torch.save(random_state(), folder / f"random_{processes.rank()}.pt")
    train = trainer.data.train
    shares = processes.gather({**trainer.sums.state(), "corrupt": train.corrupt})
    train.note_corrupt(corrupt_in(shares))  # as every process will that goes on from here
    if processes.is_main():
        (folder / SUMS).write_text(json.dumps(shares))
        trainer.state.save_to_json(str(folder / STATE))


def load(trainer: AistaTrainer, folder: Path) -> RandomState | None:
    """Go on from a checkpoint.

    Returns:
        The random state of this process, to be restored when the order of the data stands; None where the
        checkpoint was written by fewer processes.

    Raises:
        CorruptDataError: Of the clips that could not be read too many still cannot.
    """
    load_weights(trainer, folder)
    kind, device = trainer.accelerator.distributed_type, trainer.accelerator.device
    if kind == DistributedType.FSDP:
        plugin = trainer.accelerator.state.fsdp_plugin
        load_fsdp_optimizer(plugin, trainer.accelerator, trainer.optimizer, trainer.model, str(folder))
    elif kind != DistributedType.DEEPSPEED:  # whose optimiser comes with the weights
        where = device if processes.count() > 1 and device.type != "cpu" else "cpu"
        state = torch.load(folder / OPTIMIZER, map_location=where, weights_only=True)
        trainer.optimizer.load_state_dict(state)
    before = trainer.state
    trainer.state = TrainerState.load_from_json(str(folder / STATE))
    if trainer.state.best_model_checkpoint:  # the run's folder may have been moved
        best = folder.with_name(Path(trainer.state.best_model_checkpoint).name)
        trainer.state.best_model_checkpoint = str(best) if best.is_dir() else None
    trainer.state.is_world_process_zero = trainer.state.is_local_process_zero = before.is_world_process_zero
    shares = json.loads((folder / SUMS).read_text())
    trainer.sums.load(shares, processes.rank(), processes.count())
    trainer.data.train.look_again(corrupt_in(shares))
    path = folder / f"random_{processes.rank()}.pt"
    return torch.load(path, weights_only=True) if path.exists() else None


def corrupt_in(shares: list[dict[str, Any]]) -> list[int]:
    """Return the rows of the training data that any process found to be corrupt; older versions kept none."""
    return sorted({row for share in shares for row in share.get("corrupt", ())})


def load_weights(trainer: AistaTrainer, folder: Path) -> None:
    """Set what is trained."""
    if trainer.accelerator.distributed_type == DistributedType.DEEPSPEED:
        trainer.model.load_checkpoint(str(folder), load_module_strict=False)
    else:
        trainer.trained_module.load(folder)


def last_checkpoint(output: Path) -> str | None:
    """Return the newest whole checkpoint of a run, and delete those that are not: a crash left them
    half-written, or their content is no longer what was written.

    Raises:
        TrainingError: There are complete checkpoints, and all are damaged.
    """
    folders = _oldest_first(output / "checkpoints")
    for folder in folders:
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder)
    faults: dict[Path, str] = {}
    for folder in reversed([folder for folder in folders if folder.exists()]):
        if (fault := _damage(folder)) is None:
            for damaged in faults:
                logger.warning("%s is damaged (%s): going on from %s", damaged, faults[damaged], folder)
                shutil.rmtree(damaged)
            return str(folder)
        faults[folder] = fault
    if faults:
        raise TrainingError(
            "Every checkpoint of this run is damaged.",
            got="; ".join(f"{folder}: {fault}" for folder, fault in faults.items()),
            advice="Bring one back from a copy, or delete the run and start again.",
        )
    return None


def _contents(folder: Path) -> dict[str, list[int]]:
    """Return size and CRC-32 of every file of a checkpoint but the mark of its completeness."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != COMPLETE)
    return {str(path.relative_to(folder)): [path.stat().st_size, crc32_of(path)] for path in files}


def _damage(folder: Path) -> str | None:
    """Say what of a checkpoint is not what was written."""
    try:
        written = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        found = _contents(folder)
    except (OSError, ValueError) as error:
        return str(error)
    return next(
        (f"{name} was changed or is gone" for name in written if found.get(name) != written[name]), None
    )


def complete(folder: Path, best: str | None) -> None:
    """Mark a checkpoint as complete; then delete all but this one, the one before it and the best.

    The mark of a checkpoint that is deleted goes first: a crash leaves no half of it that looks whole.
    """
    for path in folder.rglob("*"):  # a mark that outlives what it vouches for would be a lie
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    write_whole(folder / COMPLETE, json.dumps(_contents(folder)))
    older = [other for other in _oldest_first(folder.parent) if other != folder]
    kept = {path.resolve() for path in older[-1:]} | ({Path(best).resolve()} if best else set())
    for other in older:
        if other.resolve() not in kept:
            (other / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(other)


def _oldest_first(folder: Path) -> list[Path]:
    """Return the checkpoints of a run; what else its user keeps beside them is not ours to read or delete."""
    found = {path: _CHECKPOINT.fullmatch(path.name) for path in folder.glob("checkpoint-*")}
    return sorted((path for path in found if found[path]), key=lambda path: int(path.name.split("-")[1]))


@contextmanager
def writing(folder: Path, *, torn: Path | None = None) -> Iterator[None]:
    """Turn what a disk answers into words.

    Args:
        folder: What is written to.
        torn: What to delete if it could not be written whole.

    Raises:
        TrainingError: The disk is full, or the folder cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, TrainingError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in DISK_WORDS):
            raise
        if torn is not None:
            shutil.rmtree(torn, ignore_errors=True)
        if isinstance(error, TrainingError):  # told within already
            raise
        place = next(parent for parent in (folder, *folder.resolve().parents) if parent.is_dir())
        free = shutil.disk_usage(place).free / 1e6
        raise TrainingError(
            f"The run cannot be written to {folder}.",
            got=error,
            expected=f"a folder that can be written ({free:,.0f} MB are free on its disk)",
            advice="Make room or choose another output. Complete checkpoints are untouched: the same "
            "command goes on from the last one.",
        ) from error
