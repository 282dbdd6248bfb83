"""Many callers, one model: pieces of sound that wait are answered in one batch."""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import numpy as np

from aista.errors import AistaError
from aista.inference.translating import Answer, Request, SpeechTranslator

P = ParamSpec("P")
T = TypeVar("T")


class Left(AistaError):
    """Nobody waits for this answer any more."""


@dataclass
class _Piece:
    """A piece of sound (n,) that waits for its answer."""

    samples: np.ndarray
    request: Request
    answer: Future[Answer] = field(default_factory=Future)


class Batcher:
    """One thread at the model, for all.

    While the model works, pieces gather. Then it takes the oldest and what was asked the same, up to
    ``generation.batch_size`` pieces; nobody waits for a batch to fill. A long recording has one batch of its
    pieces in the queue at a time, so it holds nobody up for longer.

    Args:
        translator: What answers.
    """

    def __init__(self, translator: SpeechTranslator) -> None:
        self.translator = translator
        self._waiting: deque[_Piece] = deque()
        self._lock = threading.Lock()
        self._model = ThreadPoolExecutor(1, "model")

    def put(self, samples: np.ndarray, request: Request) -> Future[Answer]:
        """Queue a piece of sound."""
        piece = _Piece(samples, request)
        with self._lock:
            self._waiting.append(piece)
        self._model.submit(self._turn)
        return piece.answer

    def run(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Return what ``work`` returns, done where the model is."""
        return self._model.submit(work, *args, **options).result()

    def _turn(self) -> None:
        """Answer one batch; nothing, where an earlier turn has taken what this was called for."""
        if batch := [piece for piece in self._taken() if piece.answer.set_running_or_notify_cancel()]:
            self._answer(batch)

    def _taken(self) -> list[_Piece]:
        with self._lock:
            while self._waiting and self._waiting[0].answer.cancelled():
                self._waiting.popleft()
            same = [piece for piece in self._waiting if piece.request == self._waiting[0].request]
            batch = same[: self.translator.generation.batch_size]
            taken = set(map(id, batch))
            self._waiting = deque(piece for piece in self._waiting if id(piece) not in taken)
        return batch

    def _answer(self, batch: list[_Piece]) -> None:
        """Answer a batch; where it fails each piece is asked alone, so that a bad one spoils no other."""
        try:
            answers = self.translator.answer([piece.samples for piece in batch], batch[0].request)
        except Exception as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for piece in batch:
                self._answer([piece])
            return
        for piece, answer in zip(batch, answers, strict=True):
            piece.answer.set_result(answer)


class Caller:
    """One client of a batcher.

    Attributes:
        translator: The batcher's translator for this client: its pieces wait for their turn among all others.
    """

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._asked: list[Future[Answer]] = []
        self._left = False
        self._asking = threading.Lock()
        self.translator = copy.copy(batcher.translator)
        self.translator.answer = self._answer  # type: ignore[method-assign]
        self.translator.time_words = self._time_words  # type: ignore[method-assign]

    def leave(self) -> None:
        """Take back what waits; whoever waits for it gets :class:`Left`."""
        with self._asking:
            self._left = True
            for future in self._asked:
                future.cancel()

    def stay(self) -> None:
        """Demand that the client is still there.

        Raises:
            Left: It is not.
        """
        if self._left:
            raise Left("The client has left.")

    def _answer(self, pieces: Sequence[np.ndarray], request: Request) -> list[Answer]:
        with self._asking:  # nobody leaves between the first piece and the last
            self.stay()
            self._asked = [self._batcher.put(piece, request) for piece in pieces]
        try:
            return [future.result() for future in self._asked]
        except CancelledError:
            raise Left("The client has left.") from None

    def _time_words(
        self, pieces: Sequence[np.ndarray], texts: Sequence[str], request: Request
    ) -> list[np.ndarray] | None:
        self.stay()
        return self._batcher.run(self._batcher.translator.time_words, pieces, texts, request)
