"""Decoding: every format, rate and width gives back what was written; bad files give clear errors."""

from __future__ import annotations

import io
import os
import threading

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from aista.audio import is_silent, load_audio, probe, write_audio
from aista.audio.files import as_flac
from aista.errors import AudioError


def tone(seconds: float, rate: int = 16_000, hertz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int, **kind: str) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, **kind)
    return stream.getvalue()


WAV = encoded(tone(1.0), 16_000, format="WAV")
FLAC = encoded(tone(1.0), 16_000, format="FLAC")
MP3 = encoded(tone(1.0), 16_000, format="MP3")
OGG = encoded(tone(1.0), 16_000, format="OGG", subtype="VORBIS")
OPUS = encoded(tone(1.0), 16_000, format="OGG", subtype="OPUS")


@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]
)
def test_every_width_of_wav_gives_the_same_sound(subtype):
    heard = load_audio(encoded(tone(0.5), 16_000, format="WAV", subtype=subtype))
    assert heard.dtype == np.float32
    assert np.abs(heard - tone(0.5)).max() < (0.02 if subtype in ("PCM_U8", "ULAW", "ALAW") else 1e-4)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_every_rate_is_resampled(rate):
    heard = load_audio(encoded(tone(1.0, rate), rate, format="WAV", subtype="FLOAT"))
    assert len(heard) == 16_000
    assert np.abs(heard - tone(1.0))[800:-800].max() < 1e-3


@pytest.mark.parametrize(
    "kind", [{"format": "MP3"}, {"format": "OGG", "subtype": "VORBIS"}, {"format": "FLAC"}]
)
def test_compressed_formats_give_the_sound_back(kind):
    heard = load_audio(encoded(tone(1.0), 16_000, **kind))
    assert abs(len(heard) - 16_000) < 2_000
    middle = heard[4_000:12_000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() == 220  # 440 Hz in half a second
    assert abs(np.abs(middle).max() - 0.3) < 0.03


def test_opus_round_trip(tmp_path):
    path = write_audio(tmp_path / "a.opus", tone(1.0))
    assert probe(path).duration_seconds == pytest.approx(1.0, abs=0.02)
    assert np.abs(load_audio(path)[4_000:12_000]).max() == pytest.approx(0.3, abs=0.05)


def test_a_long_vorbis_is_written(tmp_path):
    path = write_audio(tmp_path / "a.ogg", np.zeros(160 * 16_000, np.float32))  # in one call: a crash
    assert probe(path).duration_seconds == 160.0


def test_channels_are_averaged_or_chosen():
    both = np.stack([tone(0.5), np.zeros(8_000, np.float32)], axis=1)
    data = encoded(both, 16_000, format="WAV", subtype="FLOAT")
    assert np.allclose(load_audio(data), tone(0.5) / 2, atol=1e-6)
    assert np.allclose(load_audio(data, channel=0), tone(0.5), atol=1e-6)
    assert not load_audio(data, channel=1).any()
    with pytest.raises(AudioError, match="no channel 2"):
        load_audio(data, channel=2)


def test_eight_channels_at_192_khz():
    data = encoded(np.repeat(tone(0.5, 192_000)[:, None], 8, axis=1), 192_000, format="WAV", subtype="FLOAT")
    assert np.abs(load_audio(data) - tone(0.5))[800:-800].max() < 1e-3


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_blocks_leave_no_seam(rate, monkeypatch):
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * rate).astype(np.float32)
    data = encoded(noise, rate, format="WAV", subtype="FLOAT")
    whole = load_audio(data)
    monkeypatch.setattr("aista.audio.decoders._BLOCK_VALUES", 1_000)
    assert np.allclose(load_audio(data), whole, atol=1e-6)


@pytest.mark.parametrize(
    "kind", [{"format": "WAV"}, {"format": "FLAC"}, {"format": "OGG", "subtype": "VORBIS"}]
)
def test_a_span_is_the_same_as_a_slice(kind):
    noise = np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)
    data = encoded(noise, 16_000, **kind)
    whole = load_audio(data)
    assert np.allclose(
        load_audio(data, offset_seconds=1.25, duration_seconds=0.5), whole[20_000:28_000], atol=1e-3
    )
    assert np.allclose(load_audio(data, offset_seconds=1.25), whole[20_000:], atol=1e-3)


@pytest.mark.parametrize(
    "span", [(-1.0, None), (1.0, None), (0.0, 2.0), (0.5, 1.0), (0.0, 0.0), (1e308, None), (0.0, 1e308)]
)
def test_a_span_outside_the_file_is_refused(span):
    with pytest.raises(AudioError, match="span is not in the file"):
        load_audio(WAV, offset_seconds=span[0], duration_seconds=span[1])


@pytest.mark.parametrize("span", [(0.99999, None), (0.99999, 1e-5), (0.5, 1e-5), (0.0, 1e-9)])
@pytest.mark.parametrize("kind", [{"format": "WAV"}, {"format": "OGG", "subtype": "VORBIS"}])
def test_a_span_of_no_sample_is_refused(span, kind):
    with pytest.raises(AudioError, match=r"span holds no sample.*\n.*of 1\.000 s"):
        load_audio(encoded(tone(1.0), 16_000, **kind), offset_seconds=span[0], duration_seconds=span[1])
    assert len(load_audio(WAV, offset_seconds=0.5, duration_seconds=1 / 16_000)) == 1


def test_a_span_may_end_a_rounding_error_late():
    assert len(load_audio(WAV, duration_seconds=1.01)) == 16_000


def test_sources_paths_bytes_files_and_pipes(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(WAV)
    expected = load_audio(WAV)
    for source in (str(path), path, io.BytesIO(WAV)):
        assert np.array_equal(load_audio(source), expected)
    with path.open("rb") as file:
        assert np.array_equal(load_audio(file), expected)
        assert not file.closed
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        thread = threading.Thread(target=lambda: (os.write(writing, WAV), os.close(writing)))
        thread.start()
        assert np.array_equal(load_audio(pipe), expected)
        thread.join()


def test_what_is_empty_is_called_empty(tmp_path):
    (tmp_path / "empty.wav").touch()
    reading, writing = os.pipe()
    os.close(writing)
    with open(os.devnull, "rb") as nothing, os.fdopen(reading, "rb") as pipe:
        for source in (tmp_path / "empty.wav", b"", io.BytesIO(), nothing, pipe):
            for read in (load_audio, probe):
                with pytest.raises(AudioError, match="is empty"):
                    read(source)


def test_a_named_pipe_is_a_path_too(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(WAV))
    thread.start()
    assert np.array_equal(load_audio(tmp_path / "pipe"), load_audio(WAV))
    thread.join()


def test_errors_name_the_file_and_advise(tmp_path):
    missing = tmp_path / "missing.wav"
    empty = tmp_path / "empty.wav"
    empty.touch()
    text = tmp_path / "text.wav"
    text.write_text("this is no sound " * 50)
    silent = tmp_path / "no-samples.wav"
    soundfile.write(silent, np.zeros(0), 16_000)
    cases = [
        (missing, "no such file"), (empty, "is empty"), (text, "cannot be decoded"),
        (silent, "holds no sound"), (tmp_path, "cannot be opened"),
    ]  # fmt: skip
    for path, message in cases:
        for read in (load_audio, probe):
            with pytest.raises(AudioError, match=message) as caught:
                read(path)
            assert str(path) in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 20_000.0])
def test_samples_that_are_no_sound_are_refused(bad):
    samples = tone(0.5)
    samples[100] = bad
    with pytest.raises(AudioError):
        load_audio(encoded(samples, 16_000, format="WAV", subtype="FLOAT"))


@pytest.mark.parametrize("rate", [1, 100, 2_000_000_000])
def test_a_header_with_an_absurd_rate_costs_no_memory(rate):
    absurd = bytearray(WAV)
    absurd[24:28] = rate.to_bytes(4, "little")
    for read in (load_audio, probe):
        with pytest.raises(AudioError, match=r"cannot be decoded"):
            read(bytes(absurd))


def test_many_channels():
    data = encoded(np.repeat(tone(0.1)[:, None], 1_000, axis=1), 16_000, format="WAV", subtype="FLOAT")
    assert np.allclose(load_audio(data), tone(0.1), atol=1e-5)


def test_a_file_that_was_cut_off_is_refused():
    noise = np.random.default_rng(0).normal(0, 0.1, 160_000)
    whole = encoded(noise, 16_000, format="FLAC")
    with pytest.raises(AudioError, match="cannot be decoded"):
        load_audio(whole[: len(whole) // 2])


@given(st.sampled_from([WAV, FLAC, MP3, OGG, OPUS]), st.data())
@settings(max_examples=100, deadline=None)
def test_garbled_files_give_audio_or_an_audio_error(data, draw):
    garbled = bytearray(data[: draw.draw(st.integers(0, len(data)), label="kept")])
    for position in draw.draw(st.lists(st.integers(0, 400), max_size=8), label="hit"):
        if position < len(garbled):
            garbled[position] = draw.draw(st.integers(0, 255))
    try:
        heard = load_audio(bytes(garbled))
    except AudioError:
        return
    assert heard.ndim == 1 and len(heard) > 0 and np.isfinite(heard).all()


def test_written_files_are_whole_and_clipped(tmp_path):
    path = write_audio(tmp_path / "new" / "a.flac", 4 * tone(0.5))
    assert np.abs(load_audio(path)).max() <= 1.0
    assert [p.name for p in path.parent.iterdir()] == ["a.flac"]
    for samples in (np.zeros(0), np.full(10, np.nan), np.zeros((5, 2)), np.full(10, 9, np.int16)):
        with pytest.raises(AudioError):
            write_audio(tmp_path / "b.wav", samples)
        with pytest.raises(AudioError):
            as_flac(samples)
    with pytest.raises(AudioError):
        write_audio(tmp_path / "b.xyz", tone(0.1))
    assert not list(tmp_path.glob("*b.*"))


def test_silence():
    assert is_silent(np.zeros(16_000, np.float32))
    assert is_silent(np.zeros(10, np.float32))
    burst = np.zeros(160_000, np.float32)
    burst[80_000:80_640] = tone(0.04)
    assert not is_silent(burst)


def test_real_recordings(shared_dir):
    expected = {
        "jfk.flac": 11.0, "common_voice_en_651325.mp3": 2.38, "libri-1088-134315-0000.wav": 16.04,
        "2412-153948-0000.flac": 11.66, "LJ002-0020.wav": 1.54, "stereo.opus": 1.005,
    }  # fmt: skip
    for name, seconds in expected.items():
        samples = load_audio(shared_dir / "audio" / name)
        assert len(samples) / 16_000 == pytest.approx(seconds, abs=0.01)
        assert probe(shared_dir / "audio" / name).duration_seconds == pytest.approx(seconds, abs=0.01)
        assert not is_silent(samples)


def test_a_span_of_real_compressed_speech(shared_dir):
    for name in ("common_voice_en_651325.mp3", "jfk.flac"):
        whole = load_audio(shared_dir / "audio" / name)
        part = load_audio(shared_dir / "audio" / name, offset_seconds=1.0, duration_seconds=1.0)
        assert np.abs(part - whole[16_000:32_000])[200:-200].max() < 1e-3


def test_containers_through_pyav(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", rate=44_100, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(1.0, 44_100)[None], format="fltp", layout="mono")
        frame.sample_rate = 44_100
        for packet in [*track.encode(frame), *track.encode(None)]:
            container.mux(packet)
    heard = load_audio(path)
    assert len(heard) == pytest.approx(16_000, abs=2_000)
    spectrum = np.abs(np.fft.rfft(heard[4_000:12_000] * np.hanning(8_000)))
    assert spectrum.argmax() == 220 and np.abs(heard[4_000:12_000]).max() == pytest.approx(0.3, abs=0.05)
    with pytest.raises(AudioError, match="cannot be decoded"):
        load_audio(b"no container " * 99)


def test_without_pyav_the_advice_names_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(AudioError, match="pip install av"):
        load_audio(b"\0\0\0\x20ftypM4A \0\0\2\0" + bytes(999))


@pytest.mark.parametrize("name", ["\0a.wav", "half\ud800.wav", "folder/\0/a.wav"])
def test_a_name_no_file_can_have_is_an_error_of_ours(name):
    with pytest.raises(AudioError, match="no file can have this name") as caught:
        load_audio(name)
    str(caught.value).encode("utf-8")  # it can be printed
