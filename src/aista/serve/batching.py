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
    turn: int
    answer: Future[Answer] = field(default_factory=Future)


class Batcher:
    """One thread at the model, for all.

    While the model works, pieces gather. Then it takes those whose turn it is and what was asked the same, up
    to ``generation.batch_size`` pieces; nobody waits for a batch to fill. Turns go round: every caller has a
    piece answered, then each its next. So a caller of one piece waits for a piece or two of each of the
    others, however many those have in the queue.

    Args:
        translator: What answers.
    """

    def __init__(self, translator: SpeechTranslator) -> None:
        self.translator = translator
        self._waiting: list[_Piece] = []  # by turn, the oldest first
        self._turn = 0  # of the oldest piece that was answered last
        self._work: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._model = ThreadPoolExecutor(1, "model")

    def put(self, samples: np.ndarray, request: Request, *, number: int = 0) -> Future[Answer]:
        """Queue a piece of sound, the caller's ``number``-th of those it queues now."""
        with self._lock:
            piece = _Piece(samples, request, self._turn + 1 + number)
            self._waiting.append(piece)
        self._model.submit(self._next)
        return piece.answer

    def run(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Return what ``work`` returns, done where the model is, before any piece that waits."""
        done: Future[T] = Future()

        def at_the_model() -> None:
            try:
                done.set_result(work(*args, **options))
            except Exception as error:
                done.set_exception(error)

        self._work.append(at_the_model)
        self._model.submit(self._next)
        return done.result()

    def _next(self) -> None:
        """Do what waits, or answer a batch; nothing, where an earlier call took what this was called for."""
        if self._work:
            self._work.popleft()()
        elif batch := [piece for piece in self._taken() if piece.answer.set_running_or_notify_cancel()]:
            self._answer(batch)

    def _taken(self) -> list[_Piece]:
        with self._lock:
            waiting = [piece for piece in self._waiting if not piece.answer.cancelled()]
            waiting.sort(key=lambda piece: piece.turn)
            same = [piece for piece in waiting if piece.request == waiting[0].request]
            batch = same[: self.translator.generation.batch_size]
            taken = set(map(id, batch))
            self._waiting = [piece for piece in waiting if id(piece) not in taken]
            if batch:
                self._turn = batch[0].turn
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
            put = self._batcher.put
            self._asked = [put(piece, request, number=number) for number, piece in enumerate(pieces)]
        try:
            return [future.result() for future in self._asked]
        except CancelledError:
            raise Left("The client has left.") from None

    def _time_words(
        self, pieces: Sequence[np.ndarray], texts: Sequence[str], request: Request
    ) -> list[np.ndarray] | None:
        self.stay()
        return self._batcher.run(self._batcher.translator.time_words, pieces, texts, request)
