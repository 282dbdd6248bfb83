"""Nothing that a file names is opened, and no file fills the memory."""

from __future__ import annotations

import io
import re
import resource
import socket
import threading

import numpy as np
import pytest
import soundfile

from aista.audio import load_audio, probe, write_audio
from aista.audio.decoders import KINDS, Kind, open_track
from aista.audio.files import Overlong, read_audio
from aista.errors import AudioError
from tests.audio.sounds import contained, encoded, tone, without_length

SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 50555 RTP/AVP 0\n"
LISTS = {
    "concat": b"ffconcat version 1.0\nfile 'secret.wav'\n",
    "concat, plain": b"file 'secret.wav'\n",
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.wav\n#EXT-X-ENDLIST\n",
    "hls of rtsp": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nrtsp://127.0.0.1:50556/x\n#EXT-X-ENDLIST\n",
    "dash": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
    "sdp": SDP,
    "rtsp": b"RTSPtext\nrtsp://127.0.0.1:50556/x\n",
    "pls": b"[playlist]\nFile1=secret.wav\n",
    "asx": b"<asx version='3.0'><entry><ref href='secret.wav'/></entry></asx>",
    "lavfi": b"sine=frequency=1000:duration=5",
    "ffmetadata": b";FFMETADATA1\ntitle=x\n",
    "webvtt": b"WEBVTT\n\n00:00.000 --> 00:09.000\nx\n",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(64),
    "gif": b"GIF89a" + bytes(64),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "tty": b"\x1b[31m" + b"text " * 40,
    "imf": b'<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">',
    "mss": b"<SmoothStreamingMedia MajorVersion='2'/>",
    "id3 before": b"ID3\3\0\0\0\0\0\0#EXTM3U\n#EXTINF:9,\nsecret.wav\n",
}


@pytest.fixture
def secret(tmp_path, monkeypatch):
    """A sound in the working directory that no upload may reach."""
    monkeypatch.chdir(tmp_path)
    return write_audio(tmp_path / "secret.wav", tone(1.0))


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.timeout(10)
def test_lists_pictures_and_addresses_are_no_sound(name, secret):
    for suffix in ("x.wav", "x.m3u8", "x.sdp", "x.txt", "x.m4a"):
        (secret.parent / suffix).write_bytes(LISTS[name])
        for read in (load_audio, probe):
            with pytest.raises(AudioError, match="cannot be decoded"):
                read(secret.parent / suffix)
    with pytest.raises(AudioError, match="cannot be decoded"):
        load_audio(LISTS[name] * 20)


@pytest.mark.parametrize("demuxer", ["concat", "hls", "dash", "sdp", "rtsp", "image2", "lavfi", "tee"])
@pytest.mark.timeout(10)
def test_even_a_list_that_is_opened_as_one_reaches_nothing(demuxer, secret):
    pytest.importorskip("av")
    kind = Kind("list", demuxer, re.compile(b""))
    text = {"hls": LISTS["hls"], "sdp": SDP, "concat": LISTS["concat"]}.get(demuxer, b"secret.wav\n")
    with pytest.raises(AudioError), open_track(io.BytesIO(text), kind, "x") as track:
        list(track.blocks(0, None))


@pytest.mark.timeout(10)
def test_no_port_is_bound_and_nobody_is_called():
    reached = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)

        def wait() -> None:
            try:
                reached.append(listener.accept())
            except TimeoutError:
                return

        thread = threading.Thread(target=wait)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/x.wav".encode()
        for text in (
            b"#EXTM3U\n#EXTINF:9,\n" + address,
            b"ffconcat version 1.0\nfile '" + address + b"'\n",
            SDP,
        ):
            with pytest.raises(AudioError):
                load_audio(text)
        thread.join()
    assert not reached


def test_every_kind_is_one_demuxer_that_reads_one_file():
    lists = {"concat", "hls", "dash", "sdp", "rtsp", "rtp", "image2", "lavfi", "applehttp", "imf", "tee"}
    assert all(kind.demuxer.isalnum() and kind.demuxer not in lists for kind in KINDS)
    av = pytest.importorskip("av")
    known = {part for name in av.formats_available for part in name.split(",")}
    assert {kind.demuxer for kind in KINDS} <= known


def bomb(seconds: int, rate: int = 2_000) -> bytes:
    """Return silence that is ten thousand times larger when it is decoded."""
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", rate, 1, "PCM_16", format="FLAC") as file:
        for _ in range(seconds // 500):
            file.write(np.zeros(500 * rate, np.int16))
    return stream.getvalue()


@pytest.mark.slow
def test_a_small_file_of_many_hours_is_refused_before_it_fills_the_memory():
    data = bomb(50_000)
    assert len(data) < 1_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Overlong, match=r"at most 720 minutes(.|\n)*--max-minutes"):
        load_audio(data)
    with pytest.raises(Overlong):
        load_audio(without_length(data), max_minutes=2)
    with pytest.raises(Overlong):
        load_audio(bomb(500) * 3, max_minutes=10)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes
    assert len(load_audio(data, offset_seconds=45_000, duration_seconds=10)) == 160_000


@pytest.mark.parametrize(
    ("container", "codec"), [("ipod", "aac"), ("adts", "aac"), ("webm", "libopus"), ("ogg", "flac")]
)
def test_containers_have_the_same_limit(container, codec):
    pytest.importorskip("av")
    data = contained(np.zeros((1, 48_000 * 20), np.float32), container, codec)
    with pytest.raises(Overlong, match=r"at most 0\.2 minutes"):
        load_audio(data, max_minutes=0.2)
    assert len(load_audio(data, max_minutes=0.4)) == pytest.approx(320_000, abs=5_000)
    assert len(load_audio(data, offset_seconds=15, max_minutes=0.2)) == pytest.approx(80_000, abs=5_000)


@pytest.mark.parametrize("kind", ["webm", "wav"])
def test_sound_in_a_coding_that_nothing_here_knows_is_an_audio_error(kind):
    pytest.importorskip("av")
    if kind == "wav":
        data = encoded(tone(1.0), format="WAV")
        data = data[:34] + b"\0\0" + data[36:]  # bits of a sample
    else:
        data = contained(tone(1.0, rate=48_000), "webm", "libopus").replace(b"A_OPUS", b"A_NONE")
    for function in (probe, load_audio):
        with pytest.raises(AudioError, match="cannot be decoded"):
            function(data)


def test_the_limit_is_of_what_is_read():
    data = encoded(tone(10.0), format="FLAC")
    assert len(load_audio(data, offset_seconds=2, duration_seconds=5, max_minutes=0.1)) == 80_000
    with pytest.raises(Overlong):
        load_audio(data, max_minutes=0.1)
    assert len(read_audio(data, max_minutes=10 / 60).samples) == 160_000
