"""A process that is killed at a chosen moment: at the n-th time it touches its output or computes a loss."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from aista.config import JointSettings, PretrainSettings, SelectSettings
from aista.evaluation.evaluate import EvaluateSettings, evaluate
from aista.selection.select import select
from aista.training.stages import joint, pretrain
from aista.training.trainer import AistaTrainer

STAGES: dict[str, Any] = {
    "pretrain": (PretrainSettings, pretrain),
    "joint": (JointSettings, joint),
    "select": (SelectSettings, select),
    "evaluate": (EvaluateSettings, evaluate),
}
_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")


class Moments:
    """Counts the moments of a run; ends the process at one of them, as kill -9 does."""

    def __init__(self, output: str, last: int | None) -> None:
        self.output, self.last, self.count = str(Path(output).resolve()), last, 0
        sys.addaudithook(self._audit)
        original = AistaTrainer.compute_loss

        def compute_loss(trainer: AistaTrainer, *args: Any, **kwargs: Any) -> Any:
            self.tick()
            return original(trainer, *args, **kwargs)

        AistaTrainer.compute_loss = compute_loss  # type: ignore[method-assign]

    def tick(self) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event in _EVENTS and any(str(arg).startswith(self.output) for arg in args[:2]):
            self.tick()


def _live(stage: str, values: dict[str, Any], last: int | None, pipe: Any) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    kind, run = STAGES[stage]
    moments = Moments(values["output"], last)
    run(kind.of(values))
    pipe.send(moments.count)


def live(stage: str, values: dict[str, Any], last: int | None = None) -> int | None:
    """Run a stage in a process of its own.

    Args:
        values: Its settings.
        last: The moment at which it is killed; None: it may end.

    Returns:
        How many moments it had; None: it was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.victim"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_live, args=(stage, values, last, sender))
    process.start()
    sender.close()
    process.join(timeout=240)
    if process.exitcode == -signal.SIGKILL and last is not None:
        return None
    assert process.exitcode == 0, f"{stage} ended with {process.exitcode}"
    return receiver.recv()
