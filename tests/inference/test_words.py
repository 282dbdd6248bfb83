"""Word times: the cheapest monotone path, and what follows from it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aista.inference.translating import Request
from aista.inference.translator import load
from aista.inference.words import (
    Word,
    evenly,
    letter_times,
    monotone_path,
    out_of_pauses,
    token_times,
    units,
    words_at,
)


def every_path(rows: int, columns: int, at=(0, 0)):
    if at == (rows - 1, columns - 1):
        yield [at]
        return
    for step in ((1, 0), (0, 1), (1, 1)):
        place = (at[0] + step[0], at[1] + step[1])
        if place[0] < rows and place[1] < columns:
            for rest in every_path(rows, columns, place):
                yield [at, *rest]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_no_path_is_cheaper(rows, columns, seed):
    cost = np.random.default_rng(seed).random((rows, columns))
    paid = sum(cost[place] for place in monotone_path(cost))
    cheapest = min(sum(cost[place] for place in path) for path in every_path(rows, columns))
    assert paid == pytest.approx(cheapest)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 99))
def test_tokens_fill_the_sound_in_order(rows, columns, seed):
    times = token_times(np.random.default_rng(seed).random((rows, columns)), 7.0)
    assert times[0, 0] == 0 and times[-1, 1] == pytest.approx(7.0)
    assert np.allclose(times[1:, 0], times[:-1, 1]) and (times[:, 1] > times[:, 0]).all()


def test_a_clear_cost_gives_the_true_times():
    true = [0, 0, 1, 1, 1, 2]
    cost = np.ones((6, 3))
    cost[range(6), true] = 0.0
    assert token_times(cost, 6.0).tolist() == [[0, 2], [2, 5], [5, 6]]


def test_units_of_languages():
    def words(text, code):
        return [text[a:b] for a, b in units(text, code)]

    assert words("He  said: yes.", "en") == ["He", "said:", "yes."]
    assert words("他说：「好iPad。」走 了", "zh") == ["他", "说：", "「好", "iPad。」", "走", "了"]
    assert words("", "zh") == words(" ", "en") == []


@given(st.text() | st.text("他好a「(。 "), st.sampled_from(["en", "zh"]))
def test_words_keep_all_that_can_be_seen(text, code):
    spans = units(text, code)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert "".join("".join(text[a:b] for a, b in spans).split()) == "".join(text.split())


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8))
def test_letters_have_the_times_of_their_tokens(lengths):
    text = "".join("abcd"[:n] for n in lengths)
    edges = np.cumsum([0, *lengths])
    offsets = list(pairwise(edges.tolist()))
    times = np.stack([edges[:-1], edges[1:]], axis=1).astype(float)  # a letter a second
    found = letter_times(offsets, times, len(text))
    assert np.allclose(found[:, 0], np.arange(len(text))) and np.allclose(
        found[:, 1], 1 + np.arange(len(text))
    )
    [word] = words_at(text, "en", found, 10.0)
    assert (word.start_seconds, word.end_seconds) == (10.0, 10.0 + len(text))
    assert evenly(text, "en", 10.0, 10.0 + len(text)) == (word,)


def test_a_character_of_several_tokens_has_the_time_of_all():
    found = letter_times([(0, 1), (0, 1), (1, 2)], np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]), 2)
    assert found.tolist() == [[0, 2], [2, 3]]
    found = letter_times([(0, 1), (2, 3)], np.array([[0.0, 1.0], [1.0, 2.0]]), 3)  # a letter of no token
    assert found.tolist() == [[0, 1], [1, 1], [1, 2]]


def test_an_answer_that_holds_the_text_of_a_control_token_has_its_times():
    text = "a <|im_end|> b"
    sound = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    [times] = load(device="cpu").time_words([sound], [text], Request("st", "en", "zh"))
    assert times.shape == (len(text), 2)


def test_no_word_ends_in_a_pause():
    words = [Word("a", 0.0, 1.5), Word("b", 1.5, 1.8), Word("c", 1.8, 4.0), Word("d", 4.0, 5.0)]
    found = out_of_pauses(words, [(1.0, 2.0), (4.8, 5.0)])
    times = [(word.start_seconds, word.end_seconds) for word in found]
    assert times[0] == (0.0, 1.0) and times[2] == (2.0, 4.0) and times[3] == (4.0, 4.8)
    assert all(start <= end for start, end in times)
    assert all(a[1] <= b[0] or a[0] == a[1] or b[0] == b[1] for a, b in pairwise(times))
