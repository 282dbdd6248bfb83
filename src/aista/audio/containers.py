"""Sound that libsndfile does not read (m4a, webm, mp4, video), through PyAV (``pip install av``)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from aista.audio.kinds import Kind
from aista.errors import AudioError

_MICROSECONDS = 1_000_000


class NoDecoder(AudioError):
    """PyAV would be needed, and is not installed."""


class Track:
    """The first audio track of a container.

    Attributes:
        rate: Samples per second.
        channels: How many, at its beginning.
        frames: Samples per channel, known once the track was read to its end.
        declared_seconds: How long the container says the track is; None where it does not say.
        start_seconds: How much later than the picture the sound begins.
    """

    def __init__(self, container: Any, kind: Kind, name: str) -> None:
        if not container.streams.audio:
            raise AudioError(
                f"{name}: has no audio track.",
                got=f"a {kind.name} file with {len(container.streams)} track(s), none of sound",
                advice="Leave this file out.",
            )
        self._container, self._name = container, name
        self._track = container.streams.audio[0]
        self.rate: int = self._track.rate or 0
        self.channels: int = self._track.channels or 0
        self.frames: int | None = None
        self.declared_seconds = self._declared() if kind.declares_length else None
        self.start_seconds = self._start()

    def _declared(self) -> float | None:
        told = []
        if self._track.duration is not None and self._track.time_base:
            told.append(float(self._track.duration * self._track.time_base))
        if self._container.duration is not None and (told or not self._container.streams.video):
            told.append(self._container.duration / _MICROSECONDS)
        return min(told, default=None)

    def _start(self) -> float:
        start, all_start = self._track.start_time, self._container.start_time
        if start is None or all_start is None or not self._track.time_base:
            return 0.0
        return max(0.0, float(start * self._track.time_base) - all_start / _MICROSECONDS)

    def blocks(self, first: int, count: int | None) -> Iterator[np.ndarray]:
        """Decode ``count`` samples (None: all) from sample ``first`` on, float32 (n, channels) at a time.

        A track whose format changes in the middle is brought to its first rate; its channels may change.
        """
        import av

        try:
            yield from cut(self._decoded(), first, count)
        except (av.FFmpegError, OSError, IndexError, ValueError, OverflowError) as error:
            raise _undecodable(self._name, error) from None

    def _decoded(self) -> Iterator[np.ndarray]:
        import av

        seen, form = 0, None
        plain: Any = None
        for frame in chain(self._container.decode(self._track), [None]):
            found = frame and (frame.format.name, frame.layout.name, frame.sample_rate)
            ready = plain.resample(None) if plain is not None and found != form else []
            if frame is not None and found != form:
                plain = av.AudioResampler(format="flt", rate=self.rate)
            form = found
            for out in [*ready, *(plain.resample(frame) if frame is not None else [])]:
                seen += out.samples
                yield out.to_ndarray().reshape(-1, out.layout.nb_channels)
        self.frames = seen


def cut(blocks: Iterator[np.ndarray], first: int, count: int | None) -> Iterator[np.ndarray]:
    """Return of blocks (n, channels) the samples from ``first`` on, ``count`` of them or all."""
    seen, end = 0, None if count is None else first + count
    for block in blocks:
        part = block[max(0, first - seen) : None if end is None else end - seen]
        seen += len(block)
        if len(part):
            yield part
        if end is not None and seen >= end:
            return


@contextmanager
def open_track(stream: io.RawIOBase, kind: Kind, name: str) -> Iterator[Track]:
    """Open the first audio track of a container as the one format it is, and nothing besides.

    Args:
        stream: A seekable stream at its start.
        kind: What its first bytes say.
        name: What messages call it.

    Raises:
        AudioError: PyAV is not installed, there is no sound, or the container names something outside.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise NoDecoder(
            f"{name}: cannot be decoded.",
            got=f"a {kind.name} file of a kind that libsndfile does not read",
            expected="WAV, FLAC, MP3, OGG or Opus",
            advice="pip install av. Or convert it: ffmpeg -i IN OUT.flac",
        ) from None
    try:
        container = av.open(
            stream,
            "r",
            format=kind.demuxer,
            container_options={"protocol_whitelist": ""},
            io_open=_nothing_else,
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError, OverflowError) as error:
        raise _undecodable(name, error) from None
    with container:
        yield Track(container, kind, name)


def _nothing_else(url: str, flags: int, options: dict[str, Any]) -> NoReturn:
    raise PermissionError(f"the file names another one ({url[:80]!r}), which is not opened")


def _undecodable(name: str, error: Exception) -> AudioError:
    told = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return AudioError(
        f"{name}: cannot be decoded.",
        got=told,
        advice="The file may be cut off or of another kind; convert it: ffmpeg -i IN OUT.flac",
    )
