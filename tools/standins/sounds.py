"""Short synthetic sounds with captions and tags, for audio captioning and the small sound encoder.

Every sound is one or two events. An event has a class (bell, rain, dog ...) and one or two attributes
(high or low, loud or quiet, fast or slow, how often); caption, tags and samples are all made from that
description.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import soundfile

from aista.demo.speech import MAX_SAMPLES, SAMPLE_RATE_HZ, coloured_noise

COUNTS = {"one": "once", "two": "twice", "three": "three times", "four": "four times"}
PITCHES, LOUDNESSES, SPEEDS = ("high", "low"), ("loud", "quiet"), ("fast", "slow")
_SPEED_WORD = {"fast": "quickly", "slow": "slowly"}
_SIZE = {"low": "big", "high": "small"}


@dataclass(frozen=True)
class Kind:
    """A class of events: which attributes it has and how it is told."""

    caption: str
    attributes: tuple[str, ...]


KINDS: dict[str, Kind] = {
    "tone": Kind("A {loudness} {pitch} tone sounds", ("pitch", "loudness")),
    "rise": Kind("A tone rises {speed}", ("speed",)),
    "fall": Kind("A tone falls {speed}", ("speed",)),
    "bell": Kind("A {pitch} bell rings {count}", ("pitch", "count")),
    "beep": Kind("A {pitch} beep sounds {count}", ("pitch", "count")),
    "click": Kind("Something clicks {count}", ("count",)),
    "siren": Kind("A {loudness} siren wails {speed}", ("loudness", "speed")),
    "dog": Kind("A {size} dog barks {count}", ("pitch", "count")),
    "rain": Kind("{loudness} rain is falling", ("loudness",)),
    "wind": Kind("A {loudness} wind is blowing", ("loudness",)),
    "drum": Kind("A {loudness} drum beats {count}", ("loudness", "count")),
    "whistle": Kind("Someone whistles a {pitch} note", ("pitch",)),
    "engine": Kind("An engine runs {speed}", ("speed",)),
    "bird": Kind("A bird sings {count}", ("count",)),
    "silence": Kind("Nothing can be heard", ()),
}
TAGS = (*KINDS, *PITCHES, *LOUDNESSES, *SPEEDS, *COUNTS)


@dataclass(frozen=True)
class Event:
    """One event; an attribute that its kind does not have is empty."""

    kind: str
    pitch: str = ""
    loudness: str = ""
    speed: str = ""
    count: str = ""

    @property
    def tags(self) -> tuple[str, ...]:
        """Its class and its attributes."""
        return tuple(tag for tag in (self.kind, self.pitch, self.loudness, self.speed, self.count) if tag)

    @property
    def caption(self) -> str:
        """What a listener would say, without a full stop."""
        text = KINDS[self.kind].caption.format(
            pitch=self.pitch, loudness=self.loudness, speed=_SPEED_WORD.get(self.speed, ""),
            count=COUNTS.get(self.count, ""), size=_SIZE.get(self.pitch, ""),
        )  # fmt: skip
        return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Sound:
    """One or two events, one after the other."""

    events: tuple[Event, ...]

    @property
    def caption(self) -> str:
        """One English sentence."""
        first, *rest = (event.caption for event in self.events)
        return ", then ".join([first, *(text[0].lower() + text[1:] for text in rest)]) + "."

    @property
    def tags(self) -> tuple[str, ...]:
        """Every tag of every event, each once, in the order of ``TAGS``."""
        present = {tag for event in self.events for tag in event.tags}
        return tuple(tag for tag in TAGS if tag in present)

    def render(self, *, seed: int) -> np.ndarray:
        """Make its samples: float32 at 16 kHz, at most 4.76 s."""
        return render(self, seed=seed)


def draw_event(rng: Random, *, silence: bool = True) -> Event:
    """Draw one event."""
    kind = rng.choice([kind for kind in KINDS if silence or kind != "silence"])
    choices = {"pitch": PITCHES, "loudness": LOUDNESSES, "speed": SPEEDS, "count": tuple(COUNTS)}
    return Event(kind, **{name: rng.choice(choices[name]) for name in KINDS[kind].attributes})


def draw_sound(rng: Random) -> Sound:
    """Draw one event, or two of different classes."""
    first = draw_event(rng)
    if first.kind == "silence" or rng.random() < 0.6:
        return Sound((first,))
    second = draw_event(rng, silence=False)
    return Sound((first,) if second.kind == first.kind else (first, second))


def _time(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ


def _faded(samples: np.ndarray, seconds: float = 0.01) -> np.ndarray:
    edge = min(round(seconds * SAMPLE_RATE_HZ), len(samples) // 2)
    ramp = np.linspace(0.0, 1.0, edge, endpoint=False)
    samples[:edge] *= ramp
    samples[len(samples) - edge :] *= ramp[::-1]
    return samples


def _frequency(
    event: Event, rng: np.random.Generator, low: tuple[float, float], high: tuple[float, float]
) -> float:
    return float(rng.uniform(*(low if event.pitch == "low" else high)))


def _swept(frequency_hz: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * np.cumsum(frequency_hz) / SAMPLE_RATE_HZ)


def _repeated(
    event: Event, rng: np.random.Generator, one: Callable[[], np.ndarray], gap: tuple[float, float]
) -> np.ndarray:
    pieces: list[np.ndarray] = []
    silence = np.zeros(round(rng.uniform(*gap) * SAMPLE_RATE_HZ))
    for _ in range(1 + tuple(COUNTS).index(event.count)):
        pieces += [one(), silence]
    return np.concatenate(pieces[:-1])


def _tone(event: Event, rng: np.random.Generator) -> np.ndarray:
    time = _time(rng.uniform(0.6, 1.4))
    return _faded(np.sin(2 * np.pi * _frequency(event, rng, (150, 350), (1200, 2600)) * time))


def _sweep(event: Event, rng: np.random.Generator) -> np.ndarray:
    time = _time(rng.uniform(0.35, 0.6) if event.speed == "fast" else rng.uniform(1.3, 1.9))
    path = np.geomspace(rng.uniform(200, 400), rng.uniform(1500, 3000), len(time))
    return _faded(_swept(path if event.kind == "rise" else path[::-1]))


def _bell(event: Event, rng: np.random.Generator) -> np.ndarray:
    base = _frequency(event, rng, (250, 420), (900, 1500))

    def ring() -> np.ndarray:
        time = _time(0.45)
        partials = sum(
            np.sin(2 * np.pi * base * k * time) / (i + 1) for i, k in enumerate((1.0, 2.01, 2.76, 4.1))
        )
        return _faded(partials * np.exp(-7 * time), 0.003)

    return _repeated(event, rng, ring, (0.05, 0.12))


def _beep(event: Event, rng: np.random.Generator) -> np.ndarray:
    base = _frequency(event, rng, (250, 420), (1300, 2400))
    return _repeated(
        event, rng, lambda: _faded(np.sign(np.sin(2 * np.pi * base * _time(0.14))) * 0.6), (0.14, 0.22)
    )


def _click(event: Event, rng: np.random.Generator) -> np.ndarray:
    def click() -> np.ndarray:
        time = _time(0.05)
        return rng.standard_normal(len(time)) * np.exp(-160 * time)

    return _repeated(event, rng, click, (0.25, 0.35))


def _siren(event: Event, rng: np.random.Generator) -> np.ndarray:
    time = _time(rng.uniform(1.4, 2.0))
    swing = np.sin(
        2 * np.pi * (rng.uniform(3.0, 4.5) if event.speed == "fast" else rng.uniform(0.6, 1.1)) * time
    )
    wave = _swept(rng.uniform(650, 850) + rng.uniform(200, 300) * swing)
    return _faded(wave + 0.3 * np.sign(wave))


def _dog(event: Event, rng: np.random.Generator) -> np.ndarray:
    base = _frequency(event, rng, (120, 190), (420, 620))

    def bark() -> np.ndarray:
        time = _time(0.2)
        voice = np.sign(_swept(base * (1.4 - 2.5 * time)))
        return _faded((voice + 0.6 * rng.standard_normal(len(time))) * np.exp(-((time - 0.06) ** 2) / 0.003))

    return _repeated(event, rng, bark, (0.18, 0.28))


def _rain(event: Event, rng: np.random.Generator) -> np.ndarray:
    length = len(_time(rng.uniform(1.2, 2.0)))
    drops = (rng.random(length) < 0.004) * rng.uniform(2, 6, length)
    return _faded(
        coloured_noise(length, -0.3, rng) * 0.5 + np.convolve(drops, np.exp(-np.arange(80) / 15), "same"), 0.1
    )


def _wind(event: Event, rng: np.random.Generator) -> np.ndarray:
    time = _time(rng.uniform(1.4, 2.0))
    gust = 1 + 0.7 * np.sin(2 * np.pi * rng.uniform(0.5, 1.0) * time + rng.uniform(0, 6))
    return _faded(coloured_noise(len(time), 1.2, rng) * gust, 0.15)


def _drum(event: Event, rng: np.random.Generator) -> np.ndarray:
    base = rng.uniform(70, 110)

    def hit() -> np.ndarray:
        time = _time(0.22)
        return _faded(_swept(base * (1 + 2 * np.exp(-30 * time))) * np.exp(-14 * time), 0.002)

    return _repeated(event, rng, hit, (0.12, 0.22))


def _whistle(event: Event, rng: np.random.Generator) -> np.ndarray:
    time = _time(rng.uniform(0.7, 1.2))
    base = _frequency(event, rng, (700, 950), (1900, 2600))
    air = 0.15 * coloured_noise(len(time), -0.2, rng)
    return _faded(_swept(base * (1 + 0.03 * np.sin(2 * np.pi * 6 * time))) + air, 0.05)


def _engine(event: Event, rng: np.random.Generator) -> np.ndarray:
    time = _time(rng.uniform(1.2, 1.9))
    rate = rng.uniform(38, 55) if event.speed == "fast" else rng.uniform(11, 16)
    pulse = np.exp(-((time * rate) % 1.0) * 6)
    return _faded(pulse * (coloured_noise(len(time), 0.8, rng) + np.sin(2 * np.pi * 90 * time)), 0.05)


def _bird(event: Event, rng: np.random.Generator) -> np.ndarray:
    base = rng.uniform(2600, 3600)

    def chirp() -> np.ndarray:
        time = _time(0.18)
        return _faded(_swept(base + 900 * np.sin(2 * np.pi * 14 * time)), 0.02)

    return _repeated(event, rng, chirp, (0.15, 0.25))


def _silence(event: Event, rng: np.random.Generator) -> np.ndarray:
    return np.zeros(len(_time(rng.uniform(1.0, 2.0))))


_RENDERERS: dict[str, Callable[[Event, np.random.Generator], np.ndarray]] = {
    "tone": _tone, "rise": _sweep, "fall": _sweep, "bell": _bell, "beep": _beep, "click": _click,
    "siren": _siren, "dog": _dog, "rain": _rain, "wind": _wind, "drum": _drum, "whistle": _whistle,
    "engine": _engine, "bird": _bird, "silence": _silence,
}  # fmt: skip


def render(sound: Sound, *, seed: int) -> np.ndarray:
    """Make the samples of a sound.

    Returns:
        float32 samples at 16 kHz, at most 4.76 s.
    """
    rng = np.random.default_rng(seed)
    pause = lambda: np.zeros(round(rng.uniform(0.1, 0.25) * SAMPLE_RATE_HZ))  # noqa: E731
    pieces = [pause()]
    for event in sound.events:
        wave = _RENDERERS[event.kind](event, rng)
        peak = {"loud": rng.uniform(0.7, 0.9), "quiet": rng.uniform(0.08, 0.15)}.get(
            event.loudness, rng.uniform(0.3, 0.5)
        )
        pieces += [wave * (peak / (np.abs(wave).max() + 1e-9)), pause()]
    samples = np.concatenate(pieces)[:MAX_SAMPLES]  # four rings and a siren take up to 0.15 s more
    floor = 10 ** rng.uniform(-3.5, -2.7) * coloured_noise(len(samples), 0.5, rng)
    return np.clip(samples + floor, -1.0, 1.0).astype(np.float32)


def read_samples(path: Path) -> np.ndarray:
    """Read one made sound: float32 samples at 16 kHz."""
    samples, _ = soundfile.read(path, dtype="float32")
    return samples
