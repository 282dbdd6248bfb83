"""A signal that comes in a given step of a training."""

from __future__ import annotations

import pytest

from aista.training.callbacks import StopOnSignal


def interrupted_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the signal come in the given step."""
    original = StopOnSignal.on_step_end

    def stop(self: StopOnSignal, args: object, state: object, control: object, **rest: object) -> None:
        self.stopped = self.stopped or state.global_step == step  # type: ignore[attr-defined]
        original(self, args, state, control, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(StopOnSignal, "on_step_end", stop)
