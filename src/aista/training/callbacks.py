"""What happens beside the steps of a run: a progress bar with the parts of the loss, and a clean stop."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from aista import processes


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
