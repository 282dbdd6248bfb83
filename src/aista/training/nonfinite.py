"""Losses that stop being finite: which utterances were in the batch, and whether the run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from aista import processes
from aista.errors import TrainingError
from aista.files import write_whole

FILE = "nonfinite_batch.json"
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
            path = self.output / (FILE if processes.is_main() else f"{processes.rank()}_{FILE}")
            before = json.loads(path.read_text()) if path.exists() else []
            write_whole(path, json.dumps(before + bad, indent=1, ensure_ascii=False))
        return bad

    def _error(self, bad: list[dict], what: str) -> TrainingError:
        return TrainingError(
            what,
            got="; ".join(f"{row['loss']} for {', '.join(row['utterances'])}" for row in bad) or None,
            advice=f"Look at these utterances ({self.output / FILE}), lower the learning rate, "
            "raise alignment.alpha, or set train.nonfinite=skip.",
        )
