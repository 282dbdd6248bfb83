"""A stream gives out text once and for all, in order, never before its sound."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aista.audio import speech
from aista.errors import AudioError, ConfigError, ModelInputError
from aista.inference.streaming import Stream, common_beginning, remainder
from aista.inference.translating import Answer, SpeechTranslator

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


class Counter(SpeechTranslator):
    """Says a number for every half second of loud sound; the last word of an answer is a wild guess."""

    name, longest_seconds = "counter", 4.0

    def __init__(self, *, guesses: bool = False) -> None:
        self.guesses, self.longest, self.asked = guesses, 0.0, 0

    def answer(self, pieces, request):
        answers = []
        for piece in pieces:
            self.longest = max(self.longest, len(piece) / 16_000)
            self.asked += 1
            count = int((np.abs(piece) > 0.01).sum() / 8_000)
            words = WORDS[:count]
            if self.guesses and words and self.asked % 2:
                words = [*words[:-1], "perhaps"]
            answers.append(Answer((" " if request.target == "en" else "").join(words)))
        return answers


@pytest.fixture(autouse=True)
def loud_is_speech(monkeypatch):
    """The stand-in hears bursts of noise, which a detector would not take for speech."""
    monkeypatch.setattr(speech, "is_installed", lambda: False)


def talk(seed: int) -> np.ndarray:
    """Bursts and pauses: what is loud is 'speech'."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(int(rng.integers(1, 5))):
        parts.append(0.2 * np.sign(rng.standard_normal(int(rng.uniform(0.2, 7.0) * 16_000))))
        parts.append(np.zeros(int(rng.uniform(0.1, 1.5) * 16_000)))
    return np.concatenate(parts).astype(np.float32)


def run(samples, sizes, **options):
    stream = Stream(Counter(guesses=options.pop("guesses", False)), "en", **options)
    emissions, at, number = [], 0, 0
    while at < len(samples):
        size = sizes[number % len(sizes)]
        emissions.append(stream.push(samples[at : at + size]))
        at, number = at + size, number + 1
    return stream, [*emissions, stream.finish()]


@pytest.mark.slow
@given(st.integers(0, 99), st.lists(st.integers(1, 40_000), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_how_sound_arrives_changes_nothing_where_nothing_is_given_early(seed, sizes):
    samples = talk(seed)
    sizes = [max(size, 400) for size in sizes]
    whole, _ = run(samples, [len(samples)], chunk_seconds=math.inf)
    pieces, _ = run(samples, sizes, chunk_seconds=math.inf)
    assert pieces.text == whole.text


@pytest.mark.slow
@given(st.integers(0, 99), st.sampled_from([0.2, 0.5, 1.0, 2.0]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_emissions_are_appended_in_order_and_never_before_their_sound(seed, chunk, guesses):
    samples = talk(seed)
    stream, emissions = run(samples, [3_200], chunk_seconds=chunk, guesses=guesses)
    assert "".join(row.text for row in emissions) == stream.text
    pushed = np.minimum(3_200 * np.arange(1, len(emissions)), len(samples)) / 16_000
    assert [row.end for row in emissions] == pytest.approx([*pushed, len(samples) / 16_000])
    assert all(row.start <= row.end for row in emissions)
    spoken = [row for row in emissions if row.text]
    assert all(a.end <= b.start for a, b in pairwise(spoken))
    for number in range(len(emissions) - 1):  # so many numbers were not said yet
        loud = int((np.abs(samples[: 3_200 * (number + 1)]) > 0.01).sum())
        said = "".join(each.text for each in emissions[: number + 1]).split()
        assert len(said) <= loud / 8_000 + 4
    assert stream.translator.longest <= 4.0


def test_a_steady_answer_is_given_early_and_equals_the_late_one():
    samples = np.concatenate([np.full(56_000, 0.2), np.zeros(16_000), np.full(24_000, 0.2)]).astype(
        np.float32
    )
    late, _ = run(samples, [8_000], chunk_seconds=math.inf)
    early, emissions = run(samples, [8_000], chunk_seconds=0.5)
    assert early.text == late.text == "one two three four five six seven one two three"
    first = next(row for row in emissions if row.text)
    assert (
        first.end < 2.5
        and next(row for row in run(samples, [8_000], chunk_seconds=2.0)[1] if row.text).end > 2.5
    )


def test_sound_that_waited_is_asked_about_once():
    """What arrived while a slow model was at work: to ask for every chunk of it, it would never catch up."""
    samples = np.concatenate([np.full(56_000, 0.2), np.zeros(16_000)]).astype(np.float32)
    stream, emissions = run(samples, [8_000, 48_000, 8_000, 8_000], chunk_seconds=0.5)
    assert stream.translator.asked <= 4  # of eight chunks
    assert stream.text == "one two three four five six seven"
    assert "".join(row.text for row in emissions) == stream.text


class Levels(SpeechTranslator):
    """Says a word for every level that it hears for a quarter of a second."""

    name, longest_seconds = "levels", 4.0

    def answer(self, pieces, request):
        levels = [np.bincount(np.round(50 * piece).astype(int), minlength=18) for piece in pieces]
        return [
            Answer(" ".join(w for w, n in zip(WORDS, level[5:], strict=False) if n >= 4_000))
            for level in levels
        ]


@pytest.mark.parametrize("chunk", [0.5, math.inf])
def test_what_was_given_early_of_sound_that_is_cut_is_given_once(chunk):
    """Speech of six seconds where four are heard at once: the words given early go on behind the cut."""
    samples = np.repeat(np.arange(5, 17) / 50, 8_000).astype(np.float32)
    stream = Stream(Levels(), "en", chunk_seconds=chunk)
    emissions = [stream.push(part) for part in np.split(samples, 30)]
    assert "".join(row.text for row in [*emissions, stream.finish()]) == " ".join(WORDS)


class Hasty(SpeechTranslator):
    """Says a word too much of a quiet sound while a pause follows it."""

    name, longest_seconds = "hasty", 4.0

    def answer(self, pieces, request):
        texts = ("two three" if p.max() > 0.3 else "one" if p[-1] else "one two" for p in pieces)
        return [Answer(text) for text in texts]


def test_what_was_given_too_much_is_not_taken_from_the_next_sentence():
    parts = [np.full(47 * 512, 0.2), np.zeros(16_000), np.full(24_000, 0.4), np.zeros(16_000)]
    stream = Stream(Hasty(), "en", chunk_seconds=0.2)
    for part in np.array_split(np.concatenate(parts).astype(np.float32), 50):
        stream.push(part)
    stream.finish()
    assert stream.text == "one two two three"


class Failing(Counter):
    """Fails once, at one of its answers."""

    def __init__(self, at: int, failure: BaseException | None) -> None:
        super().__init__()
        self.at, self.failure = at, failure

    def answer(self, pieces, request):
        answers = super().answer(pieces, request)
        if self.asked != self.at:
            return answers
        if self.failure:
            raise self.failure
        return [Answer("", error="no answer")]


@pytest.mark.parametrize(
    ("chunk", "at"), [(math.inf, n) for n in range(1, 6)] + [(1.0, n) for n in (2, 4, 7)]
)
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), None])
def test_what_a_failure_interrupts_is_answered_by_the_next_call(chunk, at, failure):
    burst, pause = np.full(24_000, 0.2), np.zeros(16_000)
    samples = np.concatenate([burst, pause, np.full(88_000, 0.2), pause, burst]).astype(np.float32)
    whole, _ = run(samples, [len(samples)], chunk_seconds=math.inf)
    stream, emissions, failed = Stream(Failing(at, failure), "en", chunk_seconds=chunk), [], 0
    for step in (*np.split(samples, [60_000, 90_000, 130_000]), None):
        try:
            emissions.append(stream.finish() if step is None else stream.push(step))
        except (KeyboardInterrupt, ModelInputError):
            failed += 1
    if failed:
        emissions.append(stream.finish())
    assert failed == (at <= stream.translator.asked)
    assert chunk < math.inf or stream.text == whole.text  # what was given early depends on what was asked
    assert "".join(row.text for row in emissions) == stream.text
    assert stream.finish().text == ""


@pytest.mark.parametrize("chunk", [0.5, math.inf])
def test_an_emission_begins_where_its_sound_does(chunk):
    samples = np.concatenate([np.zeros(20 * 16_000), np.full(32_000, 0.2), np.zeros(16_000)])
    samples = np.concatenate([samples, samples[16_000:]]).astype(np.float32)
    _, emissions = run(samples, [3_200], chunk_seconds=chunk)
    spoken = [row for row in emissions if row.text]
    assert spoken[0].start == pytest.approx(20.0, abs=0.3)
    assert min(row.start for row in spoken if row.start > 23.0) == pytest.approx(42.0, abs=0.3)
    assert all(a.end <= b.start for a, b in pairwise(spoken))


def test_nothing_is_asked_about_silence_and_memory_is_bounded():
    stream = Stream(Counter(), "en")
    for _ in range(100):
        assert stream.push(np.zeros(16_000, np.float32)).text == ""
        assert len(stream._samples) <= 3 * 16_000
    assert stream.translator.asked == 0 and stream.finish().end == 100.0
    stream = Stream(Counter(), "en", chunk_seconds=math.inf)
    for _ in range(30):  # speech without a pause
        stream.push(np.full(16_000, 0.2, np.float32))
        assert len(stream._samples) <= 6 * 16_000


def test_bad_samples_and_settings():
    with pytest.raises(AudioError):
        Stream(Counter(), "en").push(np.zeros(5, np.int16))
    with pytest.raises(AudioError):
        Stream(Counter(), "en").push(np.full(5, np.nan, np.float32))
    with pytest.raises(AudioError, match="full scale"):
        Stream(Counter(), "en").push(np.full(5, 11_999, np.int16).astype(np.float32))
    with pytest.raises(ConfigError):
        Stream(Counter(), "en", chunk_seconds=0.0)


def test_agreement_and_remainder():
    assert common_beginning("he has a dog", "he has a  cat", "en") == "he has a"
    assert common_beginning("", "he", "en") == common_beginning("a", "b", "en") == ""
    assert common_beginning("他有一只狗", "他有一只猫。", "zh") == "他有一只"
    assert remainder("he has", "he has a dog", "en") == " a dog"
    assert remainder("he had", "he has a dog", "en") == " a dog"
    assert remainder("he has a dog", "he has", "en") == ""
    assert remainder("他有", "她有一只狗", "zh") == "一只狗"


@given(st.text("ab ", max_size=12), st.text("ab ", max_size=12), st.sampled_from(["en", "zh"]))
def test_a_text_that_goes_on_keeps_what_was_given(one, other, code):
    agreed = common_beginning(one, other, code)
    assert other.startswith(agreed)
    assert agreed + remainder(agreed, other, code) == other
