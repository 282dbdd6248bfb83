"""Spoken English from espeak-ng: many speakers, rates and rooms, the same bytes on every run.

espeak-ng is GPL-3 and therefore an optional extra (``pip install '.[demo]'``); nothing else needs
it. The synthesiser carries state from one utterance to the next, so equal audio needs a fresh process
that speaks the same texts in the same order: ``Synthesiser`` is opened once per process, and corpora
are made in shards, one process each.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile
from random import Random
from types import ModuleType
from typing import Any

import numpy as np
import soxr

from aista.errors import AistaError, AudioError

SAMPLE_RATE_HZ = 16_000
# 14 windows of 17 frames: what the stand-in speech encoder (5 s) holds in whole windows.
MAX_SAMPLES = 14 * 5_440
ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-us-nyc", "en")
TRAIN_VARIANTS = ("m1", "m2", "m3", "m4", "m7", "f1", "f2", "f4", "Annie", "Andy")
TEST_VARIANTS = ("m6", "m8", "f3", "f5")
NOISE_COLOURS = {"white": 0.0, "pink": 0.5, "brown": 1.0, "blue": -0.5}
_FASTER = 1.15


@dataclass(frozen=True)
class Voice:
    """One speaker and the room: how a text will sound.

    Attributes:
        accent, variant: espeak-ng voice names (``en-us`` + ``f1``).
        words_per_minute, pitch, pitch_range: espeak-ng parameters.
        snr_db: Level of the speech above the noise.
        noise: A key of ``NOISE_COLOURS``.
        peak: Largest absolute sample of the utterance before the noise.
    """

    accent: str
    variant: str
    words_per_minute: int
    pitch: int
    pitch_range: int
    snr_db: float
    noise: str
    peak: float

    @property
    def speaker(self) -> str:
        """The speaker's name in manifests."""
        return f"{self.accent}+{self.variant}"


def draw_voice(rng: Random, variants: Sequence[str]) -> Voice:
    """Draw a speaker and a room."""
    return Voice(
        accent=rng.choice(ACCENTS),
        variant=rng.choice(variants),
        words_per_minute=rng.randint(115, 145),
        pitch=rng.randint(35, 65),
        pitch_range=rng.randint(35, 65),
        snr_db=round(rng.uniform(18.0, 35.0), 1),
        noise=rng.choice(sorted(NOISE_COLOURS)),
        peak=round(rng.uniform(0.25, 0.9), 3),
    )


def require() -> ModuleType:
    """Return the loader of espeak-ng.

    Raises:
        AistaError: It is not installed.
    """
    try:
        import espeakng_loader
    except ImportError:
        raise AistaError(
            "The demo's voice, espeak-ng, is not installed.", advice="pip install '.[demo]'"
        ) from None
    return espeakng_loader


# Numbers of espeak-ng's header.
_RETRIEVE_AUDIO, _AT_CHARACTER, _UTF8, _WORD_BEGINS = 1, 1, 1, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class _Event(ctypes.Structure):
    """espeak-ng's own event, as its header lays it out."""

    _fields_ = [
        ("type", ctypes.c_int), ("message", ctypes.c_uint), ("position", ctypes.c_int),
        ("length", ctypes.c_int), ("milliseconds", ctypes.c_int), ("sample", ctypes.c_int),
        ("data", ctypes.c_void_p), ("id", ctypes.c_char * 8),
    ]  # fmt: skip


class Synthesiser:
    """espeak-ng in this process. Open one per process: the library has one global state.

    Attributes:
        word_starts: Of what was said last: (place of the word in the text, its letters, seconds at which it
            begins).

    Raises:
        AistaError: espeakng-loader is not installed or espeak-ng does not start.
    """

    def __init__(self) -> None:
        loader = require()
        self._library = library = ctypes.cdll.LoadLibrary(loader.get_library_path())
        library.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        data = str(loader.get_data_path()).encode()
        self._rate_hz = library.espeak_Initialize(_RETRIEVE_AUDIO, 0, data, 0)
        if self._rate_hz <= 0:
            raise AistaError(
                "espeak-ng did not start.",
                got=self._rate_hz,
                advice="pip install --force-reinstall espeakng-loader",
            )
        self._chunks: list[bytes] = []
        self.word_starts: list[tuple[int, int, float]] = []
        self._callback = _Callback(self._receive)  # kept alive: the library holds only the pointer
        library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, count: int, events) -> int:
        found: Any = ctypes.cast(events, ctypes.POINTER(_Event)) if events else ()
        for event in takewhile(lambda event: event.type, found):  # one of type 0 ends them
            if event.type == _WORD_BEGINS:
                self.word_starts.append((event.position - 1, event.length, event.milliseconds / 1000))
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def speak(self, text: str, voice: Voice, *, seed: int) -> np.ndarray:
        """Say a text.

        Args:
            text: English.
            voice: The speaker (its noise is not applied here).
            seed: Of espeak-ng's own random numbers.

        Returns:
            float32 samples at 16 kHz in [-1, 1].

        Raises:
            AudioError: espeak-ng does not know the voice or says nothing.
        """
        library = self._library
        name = f"{voice.accent}+{voice.variant}"
        if code := library.espeak_SetVoiceByName(name.encode()):
            raise AudioError("espeak-ng does not know this voice.", got=f"{name} (code {code})")
        settings = {_RATE: voice.words_per_minute, _PITCH: voice.pitch, _RANGE: voice.pitch_range}
        for parameter, value in settings.items():
            library.espeak_SetParameter(parameter, value, 0)
        library.espeak_ng_SetRandSeed(seed % (2**31))
        self._chunks.clear()
        self.word_starts.clear()
        encoded = text.encode() + b"\0"
        library.espeak_Synth(encoded, len(encoded), 0, _AT_CHARACTER, 0, _UTF8, None, None)
        library.espeak_Synchronize()
        pcm = np.frombuffer(b"".join(self._chunks), dtype=np.int16)
        if not pcm.size or not pcm.any():
            raise AudioError("espeak-ng said nothing.", got=text)
        return soxr.resample(pcm.astype(np.float32) / 32768.0, self._rate_hz, SAMPLE_RATE_HZ)


@cache
def synthesiser() -> Synthesiser:
    """The one synthesiser of this process."""
    return Synthesiser()


def coloured_noise(num_samples: int, slope: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of unit power whose amplitude falls as 1 / f**slope."""
    spectrum = rng.standard_normal(num_samples // 2 + 1) + 1j * rng.standard_normal(num_samples // 2 + 1)
    frequency = np.maximum(np.arange(num_samples // 2 + 1), max(1.0, num_samples * 40.0 / SAMPLE_RATE_HZ))
    noise = np.fft.irfft(spectrum * frequency**-slope, n=num_samples)
    return (noise / (np.sqrt(np.mean(noise**2)) + 1e-12)).astype(np.float32)


def _in_a_room(samples: np.ndarray, voice: Voice, seed: int) -> np.ndarray:
    speech = samples * (voice.peak / (np.abs(samples).max() + 1e-9))
    active = speech[np.abs(speech) > 0.02 * voice.peak]
    level = np.sqrt(np.mean(active**2)) * 10 ** (-voice.snr_db / 20)
    noise = coloured_noise(len(speech), NOISE_COLOURS[voice.noise], np.random.default_rng(seed))
    return np.clip(speech + level * noise, -1.0, 1.0).astype(np.float32)


def utter(text: str, voice: Voice, *, seed: int, max_samples: int = MAX_SAMPLES) -> np.ndarray | None:
    """Say a text in a room, faster where it would not fit.

    Returns:
        float32 samples at 16 kHz, at most ``max_samples``; ``None`` where even the fast reading is too long.
    """
    words_per_minute = voice.words_per_minute
    for _ in range(3):
        hurried = replace(voice, words_per_minute=words_per_minute)
        samples = synthesiser().speak(text, hurried, seed=seed)
        if len(samples) <= max_samples:
            return _in_a_room(samples, voice, seed)
        words_per_minute = round(words_per_minute * _FASTER)
    return None
