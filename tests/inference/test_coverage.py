"""An answer that cannot be right is told, with seconds and a kind; asked again or refused where wished."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aista.audio.files import Recording
from aista.errors import ModelInputError
from aista.inference.coverage import complaint, holds, pause_in
from aista.inference.translating import Answer, GenerationSettings, SpeechTranslator
from tests.evaluation.standins import tone


def kind(text: str, code: str = "en", seconds: float = 3.0) -> str | None:
    found = complaint(text, code, seconds)
    return found[0] if found else None


def test_kinds_of_doubt():
    assert kind("The doctor has bought a book for the lawyer.") is None
    assert kind("医生给律师买了一本书。", "zh") is None
    assert kind("") == kind(" ") == "empty"
    assert kind("the doctor the doctor the doctor bought") == "repeats"
    assert kind("very very very good it is, very good") is None  # people say that
    assert kind("他说他说他说了书", "zh") == "repeats" and kind("好好好，我来了吧", "zh") is None
    assert kind("医生给律师买了一本书。", "en") == kind("The doctor bought", "zh") == "script"
    assert kind("医生给律师买了一本书。", "ja") == "script"  # no kana
    assert kind("long " * 3 + "words and more of them " * 2, seconds=0.6) == "long"
    assert kind("words and more of them", seconds=0.4) is None  # as little sound as that says nothing
    assert kind("Yes.", seconds=9.0) == "short" and kind("Yes.", seconds=1.0) is None


@pytest.mark.slow
@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=5, unique=True), st.integers(3, 6))
def test_every_phrase_said_three_times_is_found(phrase, times):
    assert kind(" ".join(phrase * times), seconds=1.0) == "repeats"
    assert kind(" ".join(phrase * 2), seconds=1.0) is None


def test_a_pause_is_found_only_with_sound_on_both_sides():
    gap = np.zeros(6_400, np.float32)
    place = pause_in(np.concatenate([tone(1.5), gap, tone(1.2)]))
    assert place == pytest.approx(24_000 + 3_200, abs=320)
    noise = np.random.default_rng(0).normal(0, 0.02, 6_400).astype(np.float32)  # near the floor, not silent
    assert pause_in(np.concatenate([tone(1.5), noise, tone(1.2)])) == pytest.approx(place, abs=320)
    longer = np.concatenate([tone(1.5), gap, tone(1.2), gap, gap, tone(1.5)])
    assert pause_in(longer) == pytest.approx((1.5 + 0.4 + 1.2 + 0.4) * 16_000, abs=320)
    assert pause_in(tone(4.0)) is None and pause_in(gap) is None
    for parts in ([tone(0.5), gap, tone(2.0)], [tone(2.0), gap, tone(0.5)]):
        assert pause_in(np.concatenate(parts)) is None
        assert pause_in(np.concatenate([np.zeros(16_000, np.float32), *parts, gap, gap])) is None


def test_whether_an_answer_holds_another():
    assert holds("He left. The cook reads a book.", "The cook reads a book.")
    assert holds("He left. A cook read the book.", "The cook reads a book.")
    assert not holds(
        "The cook reads a book. Jim will fly in during winter, I am pretty sure.", "The cook reads a book."
    )
    assert not holds("The cook reads a book.", "He will return by plane tonight.")
    assert holds("医生买了书。他走了。", "他走了。") and not holds("医生买了书。", "他走了。")


class Reader(SpeechTranslator):
    """Hears tones: 300 Hz is a first sentence, 500 Hz a second; of both at once it gives the first alone."""

    name, longest_seconds = "reader", 6.0
    generation = GenerationSettings(batch_size=2)
    said = {300: "The doctor has bought a book.", 500: "She will return to Tokyo by plane."}

    def __init__(self) -> None:
        self.asked: list[float] = []

    def answer(self, pieces, request):
        answers = []
        for piece in pieces:
            self.asked.append(len(piece) / 16_000)
            power = np.abs(np.fft.rfft(piece)) / len(piece)
            heard = [pitch for pitch in self.said if power[round(pitch * len(piece) / 16_000)] > 0.02]
            answers.append(Answer(self.said[heard[0]] if heard else ""))
        return answers


def pitch(hertz: float, seconds: float) -> np.ndarray:
    """A tone that comes and goes as syllables do: a steady one is no speech."""
    time = np.arange(int(seconds * 16_000)) / 16_000
    return (0.3 * np.sin(2 * np.pi * hertz * time) * (0.6 + 0.4 * np.sin(8 * np.pi * time))).astype(
        np.float32
    )


TWO = np.concatenate([pitch(300, 2.0), np.zeros(8_000, np.float32), pitch(500, 2.5)])


def test_an_answer_that_stops_before_the_sound_is_told_asked_again_or_refused():
    reader = Reader()
    told = reader.translate(TWO, "en")
    [warning] = told.warnings
    assert (warning.kind, warning.spans) == ("stops_early", ((0.0, 5.0),))
    assert told.text == Reader.said[300]
    reader.coverage = "retry"
    again = reader.translate(TWO, "en")
    assert again.text == " ".join(Reader.said.values()) and [row.kind for row in again.warnings] == [
        "retried"
    ]
    reader.coverage = "fail"
    with pytest.raises(ModelInputError, match="cannot be right"):
        reader.translate(TWO, "en")
    assert reader.translate(pitch(300, 2.0), "en").text == Reader.said[300]


class Timer(Reader):
    """Says when letters are heard, too: evenly over the sound."""

    word_times = True

    def time_words(self, pieces, texts, request):
        edges = [np.linspace(0.0, len(p) / 16_000, len(t) + 1) for p, t in zip(pieces, texts, strict=True)]
        return [np.stack([row[:-1], row[1:]], axis=1) for row in edges]


def times_of(result) -> np.ndarray:
    words = [word for row in result.segments for word in row.words]
    spans = [(row.start_seconds, row.end_seconds) for row in (*result.segments, *words)]
    return np.array(spans + [span for row in result.warnings for span in row.spans])


def test_times_are_those_of_the_file_and_a_recording_among_others_has_its_own():
    """Two pieces are asked about at once: the second of one recording with the first of the next."""
    long = np.concatenate([pitch(500, 2.0), np.zeros(96_000, np.float32), TWO])
    sounds = [pitch(300, 2.0), long, TWO, pitch(500, 1.5)]
    alone = [Timer().translate(sound, "en") for sound in sounds]
    kinds = [[row.kind for row in result.warnings] for result in alone]
    assert kinds == [[], ["silence", "stops_early"], ["stops_early"], []]
    assert [len(row.words) for row in alone[1].segments if not row.silent] == [7, 6]
    assert Timer().translate(sounds, "en") == alone
    late = Timer().translate(Recording(long, start_seconds=3.25), "en")
    assert (late.text, late.duration_seconds) == (alone[1].text, len(long) / 16_000)
    np.testing.assert_allclose(times_of(late), times_of(alone[1]) + 3.25, atol=2e-3)


class Scripted(SpeechTranslator):
    """Gives answers that were written before, one after the other."""

    name, longest_seconds, coverage = "scripted", 6.0, "retry"

    def __init__(self, *answers: Answer) -> None:
        self.left = list(answers)

    def answer(self, pieces, request):
        return [self.left.pop(0) for _ in pieces]


SHORT, ONE, OTHER = Answer("Yes."), Answer("The doctor has bought a book."), Answer("She will return.")


@pytest.mark.parametrize(
    ("half", "is_taken"),
    [
        (ONE, True),
        (Answer("The doctor has bought a", finished=False), False),
        (Answer("the doctor the doctor the doctor"), False),
        (Answer(""), False),
        (Answer("", error="it is down"), False),
    ],
)
def test_what_is_asked_again_is_taken_where_nothing_speaks_against_it(half, is_taken):
    result = Scripted(SHORT, half, OTHER).translate(TWO, "en")
    assert result.text == (f"{ONE.text} {OTHER.text}" if is_taken else SHORT.text)
    assert [row.kind for row in result.warnings] == ["retried" if is_taken else "short"]


def test_nothing_is_asked_again_of_little_sound_or_after_an_error():
    little = Scripted(Answer(""), ONE, OTHER)
    assert little.translate(pitch(300, 1.5), "en").warnings[0].kind == "empty" and little.left == [ONE, OTHER]
    failing = Scripted(Answer("", error="it is down"), ONE, OTHER)
    with pytest.raises(ModelInputError, match="failed on it"):
        failing.translate(TWO, "en")
    assert failing.left == [ONE, OTHER]
    assert not Scripted(ONE, Answer("", error="it is down")).translate(TWO, "en").warnings  # of the tail


def test_test_sets_are_answered_once_each():
    reader = Reader()
    reader.coverage = "retry"
    request = next(iter(reader.stream([pitch(300, 2.0)], "en"))).task
    reader.asked.clear()
    from aista.inference.translating import Request

    [answered] = reader.answer_all([TWO], Request(request, "en", "en"))
    assert len(reader.asked) == 1 and not answered.doubts
