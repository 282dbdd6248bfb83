"""The log of a run as it is written, row by row: what ``aista monitor`` reads while the run goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from aista.files import write_whole

PROGRESS = "progress.jsonl"


class Journal(TrainerCallback):
    """Appends every logged row, with its step and the time, to ``progress.jsonl`` in the run's folder.

    A run that goes on from a checkpoint first drops the rows after it: every step stands there once.
    """

    def __init__(self, output: Path) -> None:
        self.path = output / PROGRESS

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Keep the rows up to the step that the run starts from."""
        if not state.is_world_process_zero or not self.path.exists():
            return
        rows = (row for row in self.path.read_text(encoding="utf-8").split("\n") if row.endswith("}"))
        kept = [row for row in rows if json.loads(row)["step"] <= state.global_step]
        write_whole(self.path, "".join(f"{row}\n" for row in kept))

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **_: Any) -> None:
        """Append a row."""
        if not state.is_world_process_zero or not logs:
            return
        row = {"step": state.global_step, "time": round(time.time(), 3), **logs}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
