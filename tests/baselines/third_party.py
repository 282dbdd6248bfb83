"""A system that somebody else could have written: it counts samples."""

from __future__ import annotations

from aista.baselines.base import Baseline
from aista.inference.translating import Answer


class System(Baseline):
    name = "counter"
    longest_seconds = 4.0

    def answer(self, pieces, request):
        return [Answer(str(len(piece))) for piece in pieces]
