"""What a header promises is held against what the file holds, and where nobody speaks no model is asked."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aista.audio.files import probe, read_audio
from aista.audio.speech import Segment, idle, without_idle_edges
from aista.data.checks import check
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.demo.speech import coloured_noise
from aista.errors import AudioError
from tests.audio.sounds import contained, encoded, tone
from tests.evaluation import standins

SOUND = tone(6.0, 600)
TOLD = {name: encoded(SOUND, format=name) for name in ("WAV", "RF64", "AIFF", "W64", "AU", "CAF", "NIST")}


@given(st.sampled_from(sorted(TOLD)), st.floats(0.3, 0.95))
@settings(max_examples=40, deadline=None)
def test_what_a_header_promises_and_the_file_lacks_is_told(name, share):
    data = TOLD[name]
    assert probe(data).remarks == ()
    found = probe(data[: int(len(data) * share)])
    assert any("cut off" in remark for remark in found.remarks), (name, share)
    assert found.duration_seconds == pytest.approx(6.0 * share, abs=0.15)


@given(st.sampled_from(["FLAC", "MP3"]), st.floats(0.3, 0.9))
@settings(max_examples=20, deadline=None)
def test_a_look_at_the_header_finds_what_reading_would(name, share):
    data = encoded(SOUND, format=name)
    assert probe(data).duration_seconds == pytest.approx(6.0, abs=0.2)
    for read in (probe, read_audio):
        with pytest.raises(AudioError, match="cannot be decoded"):
            read(data[: int(len(data) * share)])


@pytest.mark.parametrize(("container", "codec"), [("webm", "libopus"), ("matroska", "mp3")])
def test_what_was_decoded_is_held_against_the_container(container, codec):
    pytest.importorskip("av")
    data = contained(SOUND, container, codec)
    for read in (probe, read_audio):
        with pytest.raises(AudioError, match=r"only \d"):
            read(data[: len(data) // 2])


def lying_flac(samples: int) -> bytes:
    data = bytearray(encoded(SOUND, format="FLAC"))
    data[21] = data[21] & 0xF0 | samples >> 32
    data[22:26] = struct.pack(">I", samples & 0xFFFFFFFF)
    return bytes(data)


@given(st.integers(7, 36))
@settings(max_examples=10, deadline=None)
def test_an_impossible_length_is_told_by_data_check(tmp_path_factory, power):
    folder = tmp_path_factory.mktemp("check")
    (folder / "a.flac").write_bytes(lying_flac(max(96_000 + 16_000, (1 << power) - 1)))
    write_manifest(folder / "m.jsonl", [Utterance(id="a", audio="a.flac", text="x")])
    report = check(Manifest(folder / "m.jsonl"))
    assert not report.ok and "unreadable audio" in report.problems and report.hours == 0


def test_formats_that_libsndfile_refuses_go_to_ffmpeg():
    pytest.importorskip("av")
    rate = 48_000
    data = contained(tone(1.0, 600, rate), "voc", "pcm_u8")
    assert probe(data).duration_seconds == pytest.approx(1.0, abs=0.02)


# ---- where nobody speaks


def syllables(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Noise that comes and goes four times a second."""
    time = np.arange(round(seconds * 16_000)) / 16_000
    return 0.1 * np.abs(np.sin(4 * np.pi * time + 0.5)) ** 2 * rng.standard_normal(len(time))


def steady(kind: str, seconds: float, level: float, rng: np.random.Generator) -> np.ndarray:
    count = round(seconds * 16_000)
    if kind == "tone":
        return level * np.sin(2 * np.pi * rng.uniform(50, 4_000) * np.arange(count) / 16_000)
    if kind == "silence":
        return np.zeros(count)
    noise = coloured_noise(count, 0.0 if kind == "white" else 0.5, rng)
    return level * noise / noise.std()


@given(
    st.lists(
        st.tuples(st.sampled_from(["white", "pink", "tone", "silence"]), st.floats(3.0, 8.0)),
        min_size=1,
        max_size=3,
    ),
    st.floats(1.0, 4.0),
    st.floats(0.003, 0.02),
    st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_steady_places_are_found_and_speech_is_kept(places, spoken, level, seed):
    """Speech and steady sounds in turn: what is idle is inside the latter, and nearly all of them."""
    rng = np.random.default_rng(seed)
    sounds, spans, at = [], [], 0
    for kind, seconds in places:
        sounds += [syllables(spoken, rng), steady(kind, seconds, level, rng)]
        spans.append((at + len(sounds[-2]), at + len(sounds[-2]) + len(sounds[-1])))
        at = spans[-1][1]
    samples = np.concatenate([*sounds, syllables(spoken, rng)]).astype(np.float32)
    found = idle(samples)
    assert len(found) == len(spans)
    for (first, end), (start, stop) in zip(found, spans, strict=True):
        assert start - 1_600 <= first and end <= stop + 1_600
        assert end - first > (stop - start) - 1.6 * 16_000


def test_what_is_idle_by_hand():
    """Two seconds and more; 0.2 s beside speech is no part of it, the edges of the recording are."""
    spoken, faint = standins.tone(1.0), standins.tone(4.0, loudness=4e-4)  # which changes, unheard
    parts = [np.zeros(40_000), spoken, np.zeros(31_360), spoken, faint, spoken, np.zeros(48_100)]
    ends = np.cumsum([len(part) for part in parts]).tolist()
    found = [(0, ends[0] - 3_200), (ends[3] + 3_200, ends[4] - 3_200), (ends[5] + 3_200, ends[6])]
    samples = np.concatenate(parts).astype(np.float32)
    assert idle(samples) == found
    (first, *_, last), spans = without_idle_edges(samples, [Segment(0, ends[6])]), (found[0], found[2])
    assert [(piece.start_sample, piece.end_sample) for piece in (first, last)] == list(spans)


@given(st.integers(0, 99), st.lists(st.floats(0.5, 6.0), min_size=2, max_size=6))
@settings(max_examples=20, deadline=None)
def test_segments_cover_every_sample_whatever_is_idle(seed, lengths):
    rng = np.random.default_rng(seed)
    samples = np.concatenate(
        [syllables(s, rng) if i % 2 else steady("white", s, 0.01, rng) for i, s in enumerate(lengths)]
    ).astype(np.float32)
    edges = [0, *sorted(rng.integers(1, len(samples), 3).tolist()), len(samples)]
    pieces = [Segment(a, b) for a, b in pairwise(edges) if a < b]
    out = without_idle_edges(samples, pieces)
    assert out[0].start_sample == 0 and out[-1].end_sample == len(samples)
    assert all(a.end_sample == b.start_sample for a, b in pairwise(out))
    assert sum(not piece.silent for piece in out) <= len(pieces)


def test_noise_is_not_asked_about_and_said():
    translator = standins_translator()
    rng = np.random.default_rng(0)
    speech = syllables(2.0, rng)
    noise = steady("white", 12.0, 0.003, rng)
    found = translator.translate(np.concatenate([speech, noise]).astype(np.float32), "zh")
    assert [bool(row.text) for row in found.segments] == [not row.silent for row in found.segments]
    assert sum(not row.silent for row in found.segments) == 1
    assert found.warnings[0].kind == "noise"
    alone = translator.translate(noise.astype(np.float32), "zh")
    assert alone.text == "" and "without speech" in str(alone.warnings[0])
    late = translator.translate(np.concatenate([np.zeros(160_000), speech]).astype(np.float32), "zh")
    (said,) = [row for row in late.segments if not row.silent]
    assert said.start_seconds == pytest.approx(9.8, abs=0.1)


def test_one_speaker_of_two(tmp_path):
    rng = np.random.default_rng(0)
    left, right = syllables(1.0, rng), np.zeros(16_000)
    path = tmp_path / "call.wav"
    path.write_bytes(encoded(np.stack([left, right], axis=1), format="WAV"))
    translator = standins_translator()
    translator.channel = 0
    assert translator.translate(path, "zh").text
    translator.channel = 1
    assert "silent" in str(translator.translate(path, "zh").warnings[0])
    translator.channel = 2
    with pytest.raises(AudioError, match="no channel 2"):
        translator.translate(path, "zh")


def standins_translator():
    from aista.inference.translating import GenerationSettings
    from aista.inference.translator import Translator

    generation = GenerationSettings(batch_size=4, max_new_tokens=50)
    return Translator(standins.Model(), standins.Processor(), name="stand-in", generation=generation)
