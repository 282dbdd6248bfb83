"""Sounds: captions, tags and samples tell the same story."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from aista.demo import speech
from tools.standins import sounds

WORDS = {
    "high": "high", "low": "low", "loud": "loud", "quiet": "quiet", "fast": "quickly", "slow": "slowly",
    "one": "once", "two": "twice", "three": "three times", "four": "four times",
}  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_captions_say_the_tags(seed: int) -> None:
    sound = sounds.draw_sound(Random(seed))
    caption = sound.caption.lower()
    assert caption.endswith(".") and sound.caption[0].isupper()
    for event in sound.events:
        for tag in event.tags[1:]:
            dog = {"low": "big", "high": "small"} if event.kind == "dog" else {}
            assert dog.get(tag, WORDS[tag]) in caption, (tag, caption)
    assert set(sound.tags) == {tag for event in sound.events for tag in event.tags} <= set(sounds.TAGS)


@pytest.mark.parametrize("kind", sounds.KINDS)
def test_every_kind_can_be_heard(kind: str) -> None:
    choices = {"pitch": "low", "loudness": "loud", "speed": "slow", "count": "two"}
    event = sounds.Event(kind, **{name: choices[name] for name in sounds.KINDS[kind].attributes})
    samples = sounds.render(sounds.Sound((event,)), seed=1)
    assert samples.dtype == np.float32 and np.abs(samples).max() <= 1.0
    assert (np.abs(samples).max() > 0.2) == (kind != "silence")
    assert np.array_equal(samples, sounds.render(sounds.Sound((event,)), seed=1))
    assert not np.array_equal(samples, sounds.render(sounds.Sound((event,)), seed=2))


@pytest.mark.slow
def test_sounds_fit_the_encoder() -> None:
    rng = Random(3)
    lengths = [len(sounds.render(sounds.draw_sound(rng), seed=i)) for i in range(150)]
    assert max(lengths) <= speech.MAX_SAMPLES


def test_the_longest_pair_fits_the_encoder() -> None:
    bell, siren = sounds.Event("bell", pitch="low", count="four"), sounds.Event("siren", loudness="loud")
    lengths = [len(sounds.render(sounds.Sound((bell, siren)), seed=seed)) for seed in range(150)]
    assert max(lengths) == speech.MAX_SAMPLES


def test_counts_are_counts() -> None:
    def bursts(count: str) -> int:
        samples = sounds.render(sounds.Sound((sounds.Event("beep", pitch="high", count=count),)), seed=4)
        loud = np.convolve(np.abs(samples), np.ones(800) / 800, "same") > 0.1
        return int((loud[1:] & ~loud[:-1]).sum())

    assert [bursts(count) for count in sounds.COUNTS] == [1, 2, 3, 4]


def test_louder_is_louder() -> None:
    def level(loudness: str) -> float:
        return float(
            np.abs(sounds.render(sounds.Sound((sounds.Event("rain", loudness=loudness),)), seed=5)).max()
        )

    assert level("loud") > 3 * level("quiet")
