"""Speech into text while it is spoken: any translator, asked again and again about what is open.

The policy is LocalAgreement-2: what two answers in a row begin with alike is stable, and is given out once
and for all. Sound is closed where a pause ends it (``aista.audio.speech``), or where it fills what the
translator hears at once; the last answer to it completes its text.

Sources: Liu et al. 2020 (LocalAgreement); Macháček et al. 2023 (the same over a model without states).
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from aista.audio.decoders import CERTAIN
from aista.audio.files import check_samples
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.audio.speech import SpeechFinder, segment
from aista.errors import AudioError, ConfigError, ModelInputError
from aista.inference.translating import Request, SpeechTranslator
from aista.inference.words import units
from aista.text.prompts import language

_BLOCK = SAMPLE_RATE_HZ // 10
_OF_FILES = (b"RIFF", b"fLaC", b"OggS", b"ID3\x02", b"ID3\x03", b"ID3\x04")  # what they begin with
_PATIENCE_SECONDS = 0.2
_BEHIND_SECONDS = 10.0  # of sound that waits, beyond which a listener is told


@dataclass(frozen=True)
class Emission:
    """Text that is stable from now on.

    Attributes:
        text: What is added to all that was given out before, a space in front where one belongs; often empty.
        start: Where the sound of it begins, in seconds of the stream: never before the end of the emission
            before that had text.
        end: How much of the stream had been heard when it was given out, in seconds: its delay.
    """

    text: str
    start: float
    end: float


class Stream:
    """One stream of speech and its text.

    Where hearing is interrupted (Ctrl-C, a translator that fails), nothing is lost: the next call goes on
    with what was not answered, and then with its own samples.

    Args:
        translator: Anything that turns sound into text; several streams may share one, one call at a time.
        target: ISO code of the language to translate into; the source language itself transcribes.
        source: ISO code of the spoken language.
        chunk_seconds: How often the open sound is asked about; where more has come at once, once.
            ``math.inf``: only when it is closed, so that nothing is given out early.

    Attributes:
        text: All stable text.
        unstable: What the last answer says beyond it; it may still change.

    Raises:
        ConfigError: The translator does not know the direction, or ``chunk_seconds`` is no time.
    """

    def __init__(
        self,
        translator: SpeechTranslator,
        target: str,
        *,
        source: str = "en",
        chunk_seconds: float = 1.0,
    ) -> None:
        self._request = Request("asr" if target == source else "st", source, target)
        translator.check(self._request)
        if not chunk_seconds > 0.0:
            raise ConfigError("A chunk lasts some time.", got=chunk_seconds, expected="seconds, more than 0")
        self.translator = translator
        self.text = self.unstable = ""
        self._chunk_seconds = chunk_seconds
        self._finder = SpeechFinder(translator.pause_seconds)
        self._longest = int(translator.longest_seconds * SAMPLE_RATE_HZ)
        self._samples = np.zeros(0, dtype=np.float32)  # of the stream, from self._origin on
        self._origin = 0
        self._coming = np.zeros(0, dtype=np.float32)  # pushed, and not looked at yet
        self._ended: deque[tuple[int, int]] = deque()  # stretches of speech that are not answered yet
        self._closed = 0  # all sound before this sample is answered
        self._asked = 0  # the stream's length when the open sound was last asked about
        self._given, self._before = "", ""  # of the open sound: text given out, and the last answer
        self._emitted = 0  # letters of the text
        self._emitted_until = 0.0
        self._new_from: int | None = None  # first sample behind the text that is not emitted yet

    def push(self, samples: np.ndarray) -> Emission:
        """Hear the next samples and return what they made stable.

        Args:
            samples: float32 (n,), full scale 1.0, 16 kHz mono, any n.

        Raises:
            AudioError: They are not samples.
            ModelInputError: The translator failed.
        """
        if samples.size:
            check_samples(samples, "<samples>")
        self._coming = np.concatenate([self._coming, samples.astype(np.float32, copy=False)])
        self._hear()
        return self._emission()

    def finish(self) -> Emission:
        """End the stream and return what is left to say.

        Raises:
            ModelInputError: The translator failed.
        """
        self._hear()
        self._ended += self._finder.finish()
        self._answer_ended()
        self.unstable = ""
        return self._emission()

    def _hear(self) -> None:
        """Work through all that has come, a tenth of a second at a time."""
        self._answer_ended()  # what the call before did not come to
        while len(self._coming):
            part, self._coming = self._coming[:_BLOCK], self._coming[_BLOCK:]
            self._samples = np.concatenate([self._samples, part])
            self._ended += self._finder.push(part)
            self._answer_ended()
            self._look()

    def _answer_ended(self) -> None:
        while self._ended:
            self._close(*self._ended[0])
            self._ended.popleft()  # not before it is answered

    def _emission(self) -> Emission:
        end = self._finder.num_samples / SAMPLE_RATE_HZ
        start, text = self._emitted_until, self.text[self._emitted :]
        if self._new_from is not None:
            start = max(start, self._new_from / SAMPLE_RATE_HZ)
            self._emitted, self._emitted_until, self._new_from = len(self.text), end, None
        return Emission(text, start, end)

    def _look(self) -> None:
        """Close what fills a hearing, and ask about what is open when a chunk has arrived."""
        heard = self._finder.num_samples
        if self._finder.open is None:
            self._asked = heard
        else:
            first = self._cut(*self._finder.open)
            chunk = self._chunk_seconds * SAMPLE_RATE_HZ
            # While more than a chunk waits, the translator is slower than the sound: it is not asked twice.
            if heard - self._asked >= chunk > len(self._coming):
                self._asked = heard
                self._ask(first, min(heard, first + self._longest))
        keep = max(self._closed, self._finder.needed_from)
        if keep - self._origin > SAMPLE_RATE_HZ:  # nobody will ask for what is before
            self._samples, self._origin = self._samples[keep - self._origin :].copy(), keep

    def _close(self, first: int, end: int) -> None:
        """Answer a stretch of speech for good, from where it is not answered yet."""
        first = self._cut(first, end)
        if first < end:
            self._answer_closed(first, end)
        self._given = ""

    def _cut(self, first: int, end: int) -> int:
        """Answer for good what does not fit one hearing; return where the rest begins.

        Where it is cut depends on the sound alone, not on how it arrived.
        """
        first = max(first, self._closed)
        while end - first > self._longest:
            whole = self._sound(first, first + self._longest + 1)
            piece = segment(whole, max_seconds=self.translator.longest_seconds)[0]
            self._answer_closed(first, first + piece.end_sample)
            first = self._closed
        return first

    def _answer_closed(self, first: int, end: int) -> None:
        text, given, code = self._translated(self._sound(first, end)), self._given, self._request.target
        self._give(remainder(given, text, code), first)
        self._given = remainder(text, given, code).strip()  # it was said early of sound that follows
        self._before = self.unstable = ""
        self._closed = end

    def _ask(self, first: int, end: int) -> None:
        """Ask about the open sound, and give out what this answer and the one before begin with alike."""
        if first >= end:
            return
        answer = self._translated(self._sound(first, end))
        agreed = common_beginning(self._before, answer, self._request.target)
        if len(agreed) > len(self._given) and agreed.startswith(self._given):
            self._give(agreed[len(self._given) :], first)
            self._given = agreed
        self._before = answer
        self.unstable = remainder(self._given, answer, self._request.target)

    def _give(self, text: str, first: int) -> None:
        """Give out more text of the sound that begins at a sample."""
        apart = not self._given and language(self._request.target).spaces and self.text and text.strip()
        self.text += (" " if apart else "") + text
        if text and self._new_from is None:
            self._new_from = first

    def _translated(self, sound: np.ndarray) -> str:
        [answer] = self.translator.answer([sound], self._request)
        if answer.error:
            raise ModelInputError(f"{self.translator.name} failed on the stream.", got=answer.error)
        return answer.text

    def _sound(self, first: int, end: int) -> np.ndarray:
        return self._samples[first - self._origin : end - self._origin]


def common_beginning(one: str, other: str, code: str) -> str:
    """Return the words that two texts begin with alike, as the second writes them."""
    stop = 0
    for (a, b), (c, d) in zip(units(one, code), units(other, code), strict=False):
        if one[a:b] != other[c:d]:
            break
        stop = d
    return other[:stop]


def remainder(given: str, text: str, code: str) -> str:
    """Return what a text says beyond what was given out, which it may have changed its mind about.

    Where the text does not begin with it, the place is taken at which its beginning is nearest to it, in
    words inserted, left out and replaced; of several the last.
    """
    if text.startswith(given):
        return text[len(given) :]
    old = [given[a:b] for a, b in units(given, code)]
    places = units(text, code)
    new = [text[a:b] for a, b in places]
    row = list(range(len(new) + 1))  # edit distance of all of old to each beginning of new
    for number, word in enumerate(old, start=1):
        corner, row[0] = row[0], number
        for place, other in enumerate(new):
            corner, row[place + 1] = (
                row[place + 1],
                min(row[place + 1] + 1, row[place] + 1, corner + (word != other)),
            )
    place = min(range(len(row)), key=lambda n: (row[n], -n))
    if place == len(new):
        return ""
    start = places[place][0]
    return (" " if language(code).spaces else "") + text[start:]


def from_pipe(stream: BinaryIO) -> Iterator[np.ndarray]:
    """Yield samples as they arrive: 16-bit little-endian, mono, 16 kHz, without a header.

    Raises:
        AudioError: It begins as a WAV or another file does.
    """
    rest = b""
    first = True
    while data := stream.read(2 * _BLOCK):
        if first and (data.startswith(_OF_FILES) or CERTAIN.match(data)):
            raise AudioError(
                "This is a file, not raw samples.",
                got=f"a beginning of {data[:12]!r}",
                expected="16-bit mono PCM at 16 kHz",
                advice="ffmpeg -i IN -f s16le -ac 1 -ar 16000 - | aista translate - --live --to zh",
            )
        first = False
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]
        yield np.frombuffer(data[:whole], dtype="<i2").astype(np.float32) / 32768.0


def from_microphone(stop: threading.Event) -> Iterator[np.ndarray]:
    """Yield samples of the default microphone, a tenth of a second and more at a time.

    Args:
        stop: Ends it, after what was heard until then; so does a microphone that goes away. Sound that the
            machine was too busy to take is told on stderr, as is a text that falls far behind.

    Raises:
        AudioError: There is no microphone, or no library that hears it.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: PortAudio is missing
        raise AudioError(
            "The microphone cannot be heard.",
            got=str(error),
            advice="pip install '.[live]' (on Linux also PortAudio: apt install libportaudio2).",
        ) from None
    heard: queue.Queue[np.ndarray] = queue.Queue()
    lost = behind = False

    def hear(block: np.ndarray, _frames: int, _time: object, status: object) -> None:
        nonlocal lost
        heard.put(block[:, 0].copy())
        if status and not lost:
            lost = True
            print(f"warning: sound of the microphone was lost ({status})", file=sys.stderr)

    try:
        device = sounddevice.InputStream(SAMPLE_RATE_HZ, _BLOCK, channels=1, dtype="float32", callback=hear)
        device.start()
    except Exception as error:  # PortAudio's own error has a name that older versions lack
        raise AudioError(
            "There is no microphone that can be heard.",
            got=str(error),
            advice="Is one plugged in, and may this program use it? python -m sounddevice lists them.",
        ) from None
    with contextlib.closing(device):
        while (device.active and not stop.is_set()) or not heard.empty():
            try:
                blocks = [heard.get(timeout=_PATIENCE_SECONDS)]
            except queue.Empty:
                continue
            while not heard.empty():  # what arrived while the model was at work
                blocks.append(heard.get_nowait())
            seconds = len(blocks) * _BLOCK / SAMPLE_RATE_HZ
            if seconds > _BEHIND_SECONDS and not behind:
                behind = True
                told = (
                    f"the text is {seconds:.0f} s behind the sound: a larger --chunk-seconds asks less often"
                )
                print(f"warning: {told}", file=sys.stderr)
            yield np.concatenate(blocks)
