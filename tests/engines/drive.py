"""One process of several, which does stages one after the other: a test starts torchrun once for all of them.

Run by torchrun with jobs ``[ENGINE:]VERB=CONFIG``. accelerate offers FSDP on accelerators alone, though torch
has it on gloo too: its look at the hardware is replaced here; how it prepares the model is what GPUs get.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from aista import processes
from aista.config import JointSettings, SelectSettings
from aista.errors import TrainingError
from aista.selection.select import select
from aista.training.callbacks import StopOnSignal
from aista.training.objective import Joint, SpeechTextObjective
from aista.training.stages import Interrupted, joint

_look = AcceleratorState.__init__


def _look_and_shard(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    _look(self, *args, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


AcceleratorState.__init__ = _look_and_shard  # type: ignore[method-assign]


def cut(settings: JointSettings) -> None:
    """Leave a finished run as it was after its first checkpoint; keep its weights to compare with."""
    output = Path(settings.output)
    (output / "training.json").unlink()
    shutil.copytree(
        output, output.with_name(f"{output.name}_whole"), ignore=shutil.ignore_patterns("checkpoint*")
    )
    *_, last = sorted((output / "checkpoints").iterdir())
    shutil.rmtree(last)


def stopped(settings: JointSettings) -> None:
    """Train until the second process alone gets a SIGTERM after its first step; copy what is left."""
    calm = StopOnSignal.on_step_end

    def on_step_end(self: StopOnSignal, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if processes.rank() == 1 and state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        calm(self, args, state, control, **rest)

    with mock.patch.object(StopOnSignal, "on_step_end", on_step_end):
        try:
            joint(settings)
        except Interrupted as error:
            steps = processes.gather(error.what)
            if processes.is_main():
                print("stopped:", steps)
                copy = f"{settings.output}_stopped"
                shutil.copytree(settings.output, copy)
                settings.model_copy(update={"output": copy}).save(Path(copy) / "settings.yaml")


def poisoned(settings: JointSettings) -> None:
    """Train while the second process has a loss of NaN where its rows are texts alone; tell what ends it."""
    forward = SpeechTextObjective.forward

    def poison(self: SpeechTextObjective, **batch: Any) -> Joint:
        found, second = forward(self, **batch), processes.rank() == 1
        spoilt = self.training and second and batch["text"] is None
        return found._replace(loss=found.loss * float("nan")) if spoilt else found

    with mock.patch.object(SpeechTextObjective, "forward", poison):
        try:
            joint(settings)
        except TrainingError as error:
            ended = processes.gather(f"{error.what} {error.got}")
            if processes.is_main():
                print("\n".join(f"poisoned: {each}" for each in ended))


def failed() -> None:
    """Let the main process fail at what the others wait for."""
    try:
        processes.by_main(lambda: Path("no such file").read_text())
    except (FileNotFoundError, SystemExit) as error:
        ended = processes.gather(type(error).__name__)
        if processes.is_main():
            print("failed:", *ended)


def do(verb: str, path: str) -> None:
    if verb == "select":
        select(SelectSettings.load(path))
    elif verb == "cut":
        processes.by_main(lambda: cut(JointSettings.load(path)))
    elif verb == "failed":
        failed()
    elif verb == "poisoned":
        poisoned(JointSettings.load(path))
    elif verb == "stopped":
        stopped(JointSettings.load(path))
    else:
        run = joint(JointSettings.load(path))
        if processes.is_main():
            print(f"{Path(path).stem}: {run.steps} steps, {run.seconds:.3f} s")


if __name__ == "__main__":
    plain = dict(os.environ)
    for job in sys.argv[1:]:
        kind, _, path = job.partition("=")
        engine, _, verb = kind.rpartition(":")
        os.environ |= json.loads(os.environ["ENGINES"])[engine] if engine else {}
        do(verb, path)
        os.environ.clear()
        os.environ |= plain
