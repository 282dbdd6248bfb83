"""What waits is answered together; each answer is what it would be alone; who leaves is not served."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from aista.inference import translating
from aista.inference.translating import Answer, GenerationSettings, Request, SpeechTranslator
from aista.serve.batching import Batcher, Caller, Left
from tests.evaluation.standins import tone

ZH, JA = Request("st", "en", "zh"), Request("st", "en", "ja")


class Counting(SpeechTranslator):
    """Answers with the length of a piece; waits for its gate, and fails where a piece begins with 1."""

    name = "counting"
    longest_seconds = 4.0

    def __init__(self, batch_size: int) -> None:
        self.generation = GenerationSettings(batch_size=batch_size)
        self.gate, self.at_work = threading.Event(), threading.Event()
        self.batches: list[tuple[str, list[int]]] = []

    def answer(self, pieces, request):
        self.at_work.set()
        assert self.gate.wait(20)
        self.batches.append((request.target, [len(piece) for piece in pieces]))
        if any(piece[0] == 1 for piece in pieces):
            raise ValueError("a piece that cannot be answered")
        return [Answer(f"{request.target}{len(piece)}") for piece in pieces]


def piece(length: int) -> np.ndarray:
    return np.zeros(length, np.float32)


def test_what_gathers_is_answered_in_batches_of_its_own_kind_oldest_first():
    translator = Counting(batch_size=3)
    batcher = Batcher(translator)
    first = batcher.put(piece(1), ZH)
    assert translator.at_work.wait(20)
    asked = [(2, ZH), (3, JA), (4, ZH), (5, ZH), (6, ZH), (7, JA)]
    later = [batcher.put(piece(length), request) for length, request in asked]
    translator.gate.set()
    told = [future.result(20).text for future in [first, *later]]
    assert told == ["zh1", "zh2", "ja3", "zh4", "zh5", "zh6", "ja7"]
    assert translator.batches == [("zh", [1]), ("zh", [2, 4, 5]), ("ja", [3, 7]), ("zh", [6])]


def test_turns_go_round_among_callers_and_what_is_run_comes_first():
    """Who queues one piece waits for one piece of each of the others, not for all that they have there."""
    translator = Counting(batch_size=1)
    batcher = Batcher(translator)
    asked = [batcher.put(piece(1), ZH)]
    assert translator.at_work.wait(20)
    for lengths in ([10, 11, 12], [20], [30, 31, 32]):
        asked += [batcher.put(piece(length), ZH, number=number) for number, length in enumerate(lengths)]
    with ThreadPoolExecutor(1) as threads:
        ran = threads.submit(batcher.run, lambda: list(translator.batches))
        while not batcher._work:
            time.sleep(0.001)
        translator.gate.set()
        assert ran.result(20) == [("zh", [1])]
    for future in asked:
        future.result(20)
    assert [length for _, [length] in translator.batches] == [1, 10, 20, 30, 11, 31, 12, 32]


def test_a_piece_that_fails_spoils_no_other():
    translator = Counting(batch_size=8)
    batcher = Batcher(translator)
    batcher.put(piece(1), ZH)
    assert translator.at_work.wait(20)
    good, bad, other = (batcher.put(s, ZH) for s in (piece(2), np.ones(3, np.float32), piece(4)))
    translator.gate.set()
    assert (good.result(20).text, other.result(20).text) == ("zh2", "zh4")
    with pytest.raises(ValueError, match="cannot be answered"):
        bad.result(20)


def test_who_leaves_is_not_served(monkeypatch):
    translator = Counting(batch_size=1)
    batcher = Batcher(translator)
    put = batcher.put

    def slowly(*piece, **number):  # the leaver is still asking when the first piece is at work
        time.sleep(0.01)
        return put(*piece, **number)

    monkeypatch.setattr(batcher, "put", slowly)
    leaver, stayer = Caller(batcher), Caller(batcher)
    with ThreadPoolExecutor(2) as threads:
        gone = threads.submit(leaver.translator.answer, [piece(n) for n in range(1, 9)], ZH)
        assert translator.at_work.wait(20)
        kept = threads.submit(stayer.translator.answer, [piece(100)], ZH)
        leaver.leave()
        translator.gate.set()
        with pytest.raises(Left):
            gone.result(20)
        assert kept.result(20)[0].text == "zh100"
    assert sum(len(lengths) for _, lengths in translator.batches) <= 2  # what was at work, and the stayer's
    with pytest.raises(Left):
        leaver.translator.answer([piece(1)], ZH)


def test_whole_recordings_of_many_callers_are_what_they_are_alone():
    """Of any lengths, in two languages; a long one does not hold up a short one."""
    translator = Counting(batch_size=4)
    translator.gate.set()
    batcher = Batcher(translator)
    recordings = [tone(seconds) for seconds in np.random.default_rng(3).uniform(0.5, 20.0, 24)]
    wanted = [translator.translate(sound, "zh" if n % 3 else "ja") for n, sound in enumerate(recordings)]
    with ThreadPoolExecutor(24) as threads:
        found = threads.map(
            lambda n: Caller(batcher).translator.translate(recordings[n], "zh" if n % 3 else "ja"), range(24)
        )
    assert list(found) == wanted


def test_segments_come_one_by_one_and_then_the_whole():
    translator = Counting(batch_size=2)
    translator.gate.set()
    sound = np.concatenate([tone(3.0), np.zeros(160_000, np.float32), tone(9.0)])
    whole = translator.translate(sound, "zh")
    *segments, last = translator.by_segment(sound, "zh")
    assert last == whole and tuple(segments) == whole.segments
    assert any(row.silent for row in whole.segments) and len(whole.segments) > 3
    translator.batches.clear()
    next(translator.by_segment(sound, "zh"))
    assert len(translator.batches) == 1


def test_the_words_of_a_segment_are_placed_once_as_it_comes_and_once_for_the_whole(monkeypatch):
    placed = []
    monkeypatch.setattr(translating, "words_at", lambda text, *_: placed.append(text) or ())
    translator = Counting(batch_size=1)
    translator.gate.set()
    translator.word_times = True
    monkeypatch.setattr(translator, "time_words", lambda pieces, texts, _: [np.zeros((9, 2))] * len(texts))
    *segments, whole = translator.by_segment(tone(30.0), "zh", name="a talk")
    assert len(placed) == 2 * len(segments) >= 14 and whole.source == "a talk"
