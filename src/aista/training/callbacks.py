"""What happens beside the steps of a run: a progress bar, a clean stop, and losses that stop being finite."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from aista import processes
from aista.errors import TrainingError
from aista.files import write_whole


class Progress(ProgressCallback):
    """A bar whose right end shows the newest losses and token accuracy instead of printing dictionaries.

    Attributes:
        shown: Names of the figures to show; the trainer adds the parts of its loss.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown = {"eval_token_accuracy", "eval_mrr", "learning_rate"}

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep the newest value of each shown figure at the end of the bar."""
        if self.training_bar is None or not logs:
            return
        shown = {name: value for name, value in logs.items() if name in self.shown}
        self._newest = {
            **getattr(self, "_newest", {}),
            **{name: f"{value:.4g}" for name, value in shown.items()},
        }
        self.training_bar.set_postfix(self._newest)

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        """Validation is a moment: no bar of its own."""


class StopOnSignal(TrainerCallback):
    """Ctrl-C or SIGTERM: finish the step, save, stop. A second Ctrl-C stops at once.

    Of several processes all stop after the same step, whichever of them the signal reached. Their launcher
    repeats it to each of them, so there a second one is not heard; the launcher ends who takes too long.

    Attributes:
        stopped: Whether the run was stopped by a signal.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._previous: dict[int, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Listen."""
        for name in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[name] = signal.signal(name, self._note)
            except ValueError:  # not in the main thread: whoever runs us listens
                return

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        if processes.count() == 1:
            self._restore()

    def _restore(self) -> None:
        for name, handler in self._previous.items():
            signal.signal(name, handler)
        self._previous.clear()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Save and stop after the step in which a signal came."""
        self.stopped = processes.any_of(self.stopped)
        if self.stopped:
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Give the signals back."""
        self._restore()


NONFINITE = "nonfinite_batch.json"
_IN_A_ROW = 10


class FiniteLosses:
    """Watches the losses of a run.

    Args:
        output: The run's folder; batches are noted in ``nonfinite_batch.json`` there.
        action: ``stop``: raise. ``skip``: the batch gives no gradient; ten in a row still stop the run.

    With ``stop`` an accelerator is not asked in every step, but before anything is logged, validated or saved
    (:meth:`check`), so no bad weights are kept. With ``skip`` it has to be.
    """

    def __init__(self, output: Path, action: Literal["stop", "skip"]) -> None:
        self.output, self.action = output, action
        self._unread: list[tuple[int, Tensor, list[str]]] = []
        self._skipped = 0

    def allow(self, step: int, loss: Tensor, ids: Sequence[str] | None) -> bool:
        """Take note of a micro-batch; say whether its loss may be descended.

        Raises:
            TrainingError: It is not finite, and that ends the run.
        """
        self._unread.append((step, loss.detach(), list(ids or ())))
        if self.action == "stop":
            if loss.device.type == "cpu":
                self.check()
            return True
        bad = self._read()
        self._skipped = self._skipped + 1 if processes.any_of(bool(bad)) else 0
        if self._skipped >= _IN_A_ROW:
            raise self._error(bad, f"{_IN_A_ROW} batches in a row had no finite loss.")
        return not self._skipped

    def check(self) -> None:
        """Look at the losses that were not looked at yet.

        Raises:
            TrainingError: One of them is not finite.
        """
        if bad := self._read():
            raise self._error(bad, f"The loss is not finite at step {bad[0]['step']}.")

    def _read(self) -> list[dict]:
        """Return the bad ones among the unread, and write them down."""
        unread, self._unread = self._unread, []
        if not unread:
            return []
        losses = torch.stack([loss for _, loss, _ in unread]).tolist()
        bad = [
            {"step": step, "loss": str(loss), "utterances": ids}
            for (step, _, ids), loss in zip(unread, losses, strict=True)
            if loss != loss or abs(loss) == float("inf")
        ]
        if bad:
            path = self.output / (NONFINITE if processes.is_main() else f"{processes.rank()}_{NONFINITE}")
            before = json.loads(path.read_text()) if path.exists() else []
            write_whole(path, json.dumps(before + bad, indent=1, ensure_ascii=False))
        return bad

    def _error(self, bad: list[dict], what: str) -> TrainingError:
        return TrainingError(
            what,
            got="; ".join(f"{row['loss']} for {', '.join(row['utterances'])}" for row in bad) or None,
            advice=f"Look at these utterances ({self.output / NONFINITE}), lower the learning rate, "
            "raise alignment.alpha, or set train.nonfinite=skip.",
        )
