"""A file is read whole, or it is an error: joined recordings, unfinished headers, streams without an end."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from aista.audio import load_audio, probe
from aista.audio.files import read_audio
from aista.audio.parts import parts
from aista.errors import AudioError
from tests.audio.sounds import (
    contained,
    encoded,
    id3,
    ogg_pages,
    pitch_at,
    tone,
    without_end_flag,
    without_length,
)  # fmt: skip

FIRST, SECOND = tone(1.5, 440), tone(2.5, 1000)

SNDFILE = {
    "mp3": {"format": "MP3"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "flac": {"format": "FLAC"},
    "wav": {"format": "WAV"},
    "wavex": {"format": "WAVEX", "subtype": "PCM_24"},
    "rf64": {"format": "RF64"},
    "aiff": {"format": "AIFF"},
    "caf": {"format": "CAF"},
    "w64": {"format": "W64"},
    "au": {"format": "AU"},
    "sphere": {"format": "NIST"},
}
AV = {
    "m4a": ("ipod", "aac", {}),
    "mp4-fast": ("mp4", "aac", {"options": {"movflags": "faststart"}}),
    "webm": ("webm", "libopus", {}),
    "mka": ("matroska", "flac", {}),
    "adts": ("adts", "aac", {}),
    "mpegts": ("mpegts", "aac", {}),
    "wma": ("asf", "wmav2", {}),
    "flv": ("flv", "aac", {"rate": 44_100}),
    "ogg-flac": ("ogg", "flac", {}),
}


def one(name: str, samples: np.ndarray) -> bytes:
    if name in SNDFILE:
        return encoded(samples, **SNDFILE[name])
    pytest.importorskip("av")
    container, codec, how = AV[name]
    rate = how.get("rate", 48_000)
    at_rate = np.interp(
        np.arange(len(samples) * rate // 16_000) * 16_000 / rate, np.arange(len(samples)), samples
    )
    return contained(at_rate.astype(np.float32), container, codec, **how)


def is_both(heard: np.ndarray, first: float = 1.5, second: float = 2.5) -> None:
    assert len(heard) / 16_000 == pytest.approx(first + second, abs=0.3)
    assert pitch_at(heard, first / 2) == pytest.approx(440, abs=4)
    assert pitch_at(heard, first + second / 2) == pytest.approx(1000, abs=4)


@pytest.mark.parametrize("name", [*SNDFILE, *AV])
def test_joined_files_are_heard_one_after_the_other(name):
    joined = one(name, FIRST) + one(name, SECOND)
    is_both(load_audio(joined))
    assert probe(joined).duration_seconds == pytest.approx(4.0, abs=0.3)


@pytest.mark.parametrize("name", SNDFILE)
def test_one_file_alone_is_one_file(name):
    found = read_audio(one(name, FIRST))
    assert len(found.samples) == pytest.approx(24_000, abs=2_000) and found.remarks == ()
    assert probe(one(name, FIRST)).duration_seconds == pytest.approx(1.5, abs=0.1)


def test_the_parts_may_differ_in_rate_and_channels():
    stereo = np.stack([SECOND, SECOND], axis=1)
    for name in ("opus", "vorbis", "flac", "mp3", "wav"):
        rate = 48_000 if name == "opus" else 44_100
        wide = np.stack([tone(2.5, 1000, rate)] * 2, axis=1)
        is_both(load_audio(one(name, FIRST) + encoded(wide, rate, **SNDFILE[name])))
    is_both(load_audio(one("wav", FIRST) + encoded(stereo, format="FLAC")))
    is_both(load_audio(one("aiff", FIRST) + encoded(stereo, format="WAV")))


def test_three_and_the_same_one_twice():
    for name in ("mp3", "opus", "flac"):
        data = one(name, FIRST)
        assert len(load_audio(data * 3)) == pytest.approx(3 * len(load_audio(data)), abs=10)


@pytest.mark.parametrize(
    "between", [id3(40), id3(300_000), id3(8) + bytes(16), b"TAG" + bytes(125), bytes(5_000)]
)
def test_mp3s_with_tags_between(between):
    is_both(load_audio(one("mp3", FIRST) + between + one("mp3", SECOND)))


def test_what_follows_the_tag_at_the_end_of_an_mp3_is_told():
    data = one("mp3", FIRST)
    for tail in (id3(8) + b"\1" * 20_000, id3(8) + b"\1" * 20_000 + data[-200:]):
        found = read_audio(data + tail)
        assert pitch_at(found.samples, 0.7) == pytest.approx(440, abs=4)
        assert "are no MP3, and are not read" in found.remarks[0]
    for tail in (id3(100_000), id3(8) + bytes(20_000)):
        assert read_audio(data + tail).remarks == ()


def test_mp3s_without_counts_and_counts_that_are_too_small():
    bare = [
        one("mp3", samples).replace(b"Xing", b"\0\0\0\0").replace(b"Info", b"\0\0\0\0")
        for samples in (FIRST, SECOND)
    ]
    is_both(load_audio(b"".join(bare)))
    is_both(load_audio(one("mp3", FIRST) + bare[1]))
    assert probe(one("mp3", FIRST) + bare[1]).duration_seconds == pytest.approx(4.0, abs=0.3)


def header_only(name: str) -> bytes:
    """Return a file without a sample, of 8 kHz."""
    if name == "flac":
        data = bytearray(encoded(FIRST, 8_000, format="FLAC")[:42])
        data[4] |= 0x80  # no more metadata
        return without_length(bytes(data))
    if name == "vorbis":
        return b"".join(ogg_pages(encoded(FIRST, 8_000, **SNDFILE["vorbis"]))[:2])
    return encoded(np.zeros(0), 8_000, **SNDFILE[name])


@pytest.mark.parametrize("name", ["wav", "flac", "vorbis", "aiff"])
def test_an_empty_file_among_joined_ones_is_passed_over_and_told(name):
    empty = header_only(name)
    for joined in (empty + one(name, FIRST), one(name, FIRST) + empty):
        found, info = read_audio(joined), probe(joined)
        assert len(found.samples) == info.num_frames == 24_000 and info.sample_rate_hz == 16_000
        for remarks in (found.remarks, info.remarks):
            assert "one of the recordings that are joined in it holds no sound" in remarks
    is_both(load_audio(one(name, FIRST) + empty + one(name, SECOND)))
    for read in (load_audio, probe):
        with pytest.raises(AudioError, match="holds no sound"):
            read(empty + empty)


def made_of_a_wav(name: str, samples: np.ndarray) -> bytes:
    """Return a file that keeps the header of the WAV it was made from."""
    riff = b"RIFF\x24\0\0\0WAVE" + bytes(32)
    if name == "flac":
        flac = one("flac", samples)
        return flac[:42] + b"\2" + (len(riff) + 4).to_bytes(3, "big") + b"riff" + riff + flac[42:]
    pytest.importorskip("av")
    data = contained(samples, "wv", "wavpack", rate=16_000)
    size = int.from_bytes(data[4:8], "little") + 2 + len(riff)
    return data[:4] + struct.pack("<I", size) + data[8:32] + bytes([0x21, len(riff) // 2]) + riff + data[32:]


@pytest.mark.parametrize("name", ["flac", "wavpack"])
def test_the_header_of_the_wav_that_a_file_was_made_from_is_no_other_file(name):
    data = made_of_a_wav(name, FIRST)
    assert np.allclose(load_audio(data), FIRST, atol=0.01) and probe(data).duration_seconds == 1.5
    if name == "flac":
        is_both(load_audio(data + made_of_a_wav(name, SECOND)))


def test_monkeys_audio_keeps_the_header_of_its_wav_too():
    riff = b"RIFF\x24\0\0\0WAVE" + bytes(32)
    data = b"MAC \x96\x0f\0\0" + struct.pack("<4I", 52, 24, 8, len(riff)) + bytes(60) + riff + bytes(999)
    assert len(parts(io.BytesIO(data))) == 1


def test_flac_in_a_matroska_of_a_size_not_known():
    pytest.importorskip("av")
    data = contained(tone(3.0, rate=48_000), "matroska", "flac")
    size = data.index(b"\x18S\x80g") + 4
    live = data[:size] + b"\x01" + b"\xff" * 7 + data[size + 8 :]
    assert len(load_audio(live)) == 48_000 and len(load_audio(live + live)) == 96_000
    for cut in (data[: len(data) // 2], live[: len(live) // 2]):
        with pytest.raises(AudioError, match=r"only 1\.\d+ s of 3\.00 s can be decoded"):
            load_audio(cut)


def test_spans_of_joined_files():
    joined = one("flac", FIRST) + one("flac", SECOND)
    across = load_audio(joined, offset_seconds=1.0, duration_seconds=1.0)
    assert np.allclose(across, np.concatenate([FIRST, SECOND])[16_000:32_000], atol=1e-3)
    later = load_audio(joined, offset_seconds=2.0)
    assert np.allclose(later, SECOND[8_000:], atol=1e-3)
    with pytest.raises(AudioError, match=r"within 0 \.\. 4\.000 s"):
        load_audio(joined, offset_seconds=3.5, duration_seconds=1.0)


def test_a_flac_that_does_not_know_its_length():
    data = without_length(one("flac", SECOND))
    assert np.allclose(load_audio(data), SECOND, atol=1e-3)
    assert probe(data).duration_seconds == 2.5
    assert np.allclose(
        load_audio(data, offset_seconds=1.0, duration_seconds=0.5), SECOND[16_000:24_000], atol=1e-3
    )
    is_both(load_audio(without_length(one("flac", FIRST)) + data))
    with pytest.raises(AudioError, match="span is not in the file"):
        load_audio(data, offset_seconds=2.0, duration_seconds=2.0)


@pytest.mark.parametrize("name", ["opus", "vorbis"])
@pytest.mark.parametrize("lost", [0, 1])
def test_an_ogg_without_its_end(name, lost):
    pytest.importorskip("av")
    data = without_end_flag(encoded(tone(6.0, 1000), **SNDFILE[name]))
    data = b"".join(ogg_pages(data)[: -lost or None])
    found = read_audio(data)
    assert pitch_at(found.samples, 1.0) == pytest.approx(1000, abs=4)
    assert "no mark of its end" in found.remarks[0]
    assert probe(data).duration_seconds == pytest.approx(len(found.samples) / 16_000, abs=0.1)
    if not lost:
        assert len(found.samples) == pytest.approx(96_000, abs=1_000)


@pytest.mark.parametrize("riff", [0, 36, None])
@pytest.mark.parametrize("kind", [{"subtype": "PCM_16"}, {"subtype": "FLOAT"}, {"subtype": "PCM_24"}])
def test_a_wav_whose_header_was_never_finished(riff, kind):
    data = bytearray(encoded(SECOND, format="WAV", **kind))
    place = data.index(b"data")
    data[place + 4 : place + 8] = bytes(4)
    if riff is not None:
        data[4:8] = struct.pack("<I", riff)
    found = read_audio(bytes(data))
    assert np.abs(found.samples - SECOND).max() < 1e-3 and len(found.samples) == 40_000
    assert "never finished" in found.remarks[0]
    assert probe(bytes(data)).duration_seconds == 2.5


def test_an_empty_wav_with_a_list_behind_is_empty():
    data = encoded(np.zeros(0), format="WAV", subtype="PCM_16") + b"LIST\x04\0\0\0INFO"
    for read in (load_audio, probe):
        with pytest.raises(AudioError, match="holds no sound"):
            read(data)


@pytest.mark.parametrize("size", [3, 4, 5])
def test_chunks_before_and_after_the_samples(size):
    wav = encoded(FIRST, format="WAV", subtype="PCM_16")
    chunk = b"JUNK" + struct.pack("<I", size) + bytes(size + size % 2)
    data = bytearray(wav[:12] + chunk + wav[12:] + chunk)
    data[4:8] = struct.pack("<I", len(data) - 8)
    found = read_audio(bytes(data))
    assert np.abs(found.samples - FIRST).max() < 1e-3 and found.remarks == ()
    is_both(load_audio(bytes(data) + one("wav", SECOND)))


def test_samples_that_no_header_counts_are_told():
    wav = encoded(FIRST, format="WAV", subtype="PCM_16")
    assert "follow the end" in read_audio(wav + bytes(range(1, 101)) * 200).remarks[0]
    assert "cut off" in read_audio(wav[: len(wav) // 2]).remarks[0]
    assert probe(wav[: len(wav) // 2]).remarks
    assert read_audio(wav + b"junk" * 10).remarks == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m4a", "webm", "mka", "wma", "mp3", "flac"])
def test_what_was_cut_off_is_refused(name):
    data = one(name, tone(20.0, 1000))
    if name == "m4a":
        data = one("mp4-fast", tone(20.0, 1000))  # its table comes first
    with pytest.raises(AudioError, match="cannot be decoded"):
        load_audio(data[: len(data) // 2])


@pytest.mark.parametrize("name", AV)
def test_containers_say_their_length(name):
    data = one(name, SECOND)
    assert pitch_at(load_audio(data), 1.0) == pytest.approx(1000, abs=4)
    assert probe(data).duration_seconds == pytest.approx(2.5, abs=0.15)
    part = load_audio(data, offset_seconds=1.0, duration_seconds=0.5)
    assert len(part) == pytest.approx(8_000, abs=2)
    with pytest.raises(AudioError, match="span is not in the file"):
        load_audio(data, offset_seconds=2.0, duration_seconds=2.0)


@pytest.mark.parametrize("name", ["ogg-flac", "m4a", "webm"])
def test_without_pyav_it_is_named(name, monkeypatch):
    data = one(name, SECOND)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    for read in (load_audio, probe):
        with pytest.raises(AudioError, match="pip install av"):
            read(data)


def test_without_pyav_it_is_named_only_where_it_would_help(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    for name in ("wav", "flac", "mp3"):
        with pytest.raises(AudioError, match="there is no channel 1"):
            load_audio(one(name, FIRST), channel=1)
    for name in ("flac", "vorbis"):
        with pytest.raises(AudioError, match="holds no sound"):
            load_audio(header_only(name))


def test_joined_files_are_whole_without_pyav_too(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    for name in ("mp3", "opus", "flac", "wav"):
        is_both(load_audio(one(name, FIRST) + one(name, SECOND)))
    with pytest.raises(AudioError, match="pip install av"):
        load_audio(without_end_flag(one("opus", SECOND)))


def test_the_sound_of_a_video_may_begin_late():
    pytest.importorskip("av")
    for container, codec in (("mp4", "aac"), ("matroska", "aac"), ("mpegts", "aac")):
        video = contained(tone(1.5, 440, 48_000), container, codec, picture_seconds=4.0, late_seconds=2.0)
        found = read_audio(video)
        assert found.start_seconds == pytest.approx(2.0, abs=0.1), container
        assert len(found.samples) == pytest.approx(24_000, abs=2_000)
        assert read_audio(contained(tone(1.5, 440, 48_000), container, codec)).start_seconds == 0.0


def test_a_video_without_sound_says_so():
    pytest.importorskip("av")
    silent = contained(np.zeros((1, 0)), "mp4", "", picture_seconds=1.0)
    for read in (load_audio, probe):
        with pytest.raises(AudioError, match="no audio track"):
            read(silent)


def test_channels_that_cancel_are_heard_one_by_one():
    left = tone(1.0)
    for right in (-left, np.roll(-0.9 * left, 0)):
        found = read_audio(encoded(np.stack([left, right], axis=1), format="WAV", subtype="FLOAT"))
        assert np.allclose(found.samples, left, atol=1e-5)
        assert "channels cancel" in found.remarks[0]
    for other in (0 * left, left, tone(1.0, 1000)):
        found = read_audio(encoded(np.stack([left, other], axis=1), format="WAV", subtype="FLOAT"))
        assert np.allclose(found.samples, (left + other) / 2, atol=1e-5) and not found.remarks


def test_a_pointer_of_git_lfs_and_a_page_of_text_are_called_so():
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 12345\n"
    with pytest.raises(AudioError, match="Git LFS"):
        load_audio(pointer)
    with pytest.raises(AudioError, match="a text that begins with"):
        load_audio(b"<!DOCTYPE html><html><body>404 Not Found</body></html>")


@pytest.mark.slow
@pytest.mark.parametrize(
    "data", [b"fLaC\0\0\0\x22" * 200_000, b"\xff\xfb\xf4" * 300_000, b"\xff" * 1_000_000, b"OggS" * 300_000]
)
@pytest.mark.timeout(20)
def test_a_million_beginnings_cost_little(data):
    for read in (load_audio, probe):
        with pytest.raises(AudioError):
            read(data)
