"""How fast a run is: utterances and tokens a second, the share of padding, the most memory."""

from __future__ import annotations

import resource
import sys
import time

import torch
from torch import Tensor


class Meter:
    """Counts what goes through a model between two readings; reading is the only time a device is asked."""

    def __init__(self) -> None:
        self._counts: list[Tensor] = []
        self._cells = self._rows = 0
        self._start = time.perf_counter()

    def note(self, mask: Tensor) -> None:
        """Count a micro-batch by its attention mask (B, T)."""
        self._counts.append(mask.sum())
        self._rows, self._cells = self._rows + mask.shape[0], self._cells + mask.numel()

    def pause(self, seconds: float) -> None:
        """Leave out time that was not spent training."""
        self._start += seconds

    def counts(self) -> list[float]:
        """Return utterances, tokens and places since the last reading: what processes may add up."""
        tokens = float(torch.stack(self._counts).sum()) if self._counts else 0.0
        return [float(self._rows), tokens, float(self._cells)]

    def read(self, counts: list[float]) -> dict[str, float]:
        """Return the figures for these counts, and start anew.

        Returns:
            ``utterances_per_second``, ``tokens_per_second`` (real tokens of the speech branch),
            ``padding_waste`` (share of its places that are pads), ``memory_mb`` (most so far: of the
            accelerator, or else resident memory).
        """
        rows, tokens, cells = counts
        seconds = max(time.perf_counter() - self._start, 1e-9)
        self.__init__()  # type: ignore[misc]
        return {
            "utterances_per_second": rows / seconds,
            "tokens_per_second": tokens / seconds,
            "padding_waste": 1 - tokens / max(cells, 1),
            "memory_mb": peak_memory_bytes() / 1e6,
        }


def peak_memory_bytes() -> int:
    """Return the most memory this process has held: on its accelerator, or else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
