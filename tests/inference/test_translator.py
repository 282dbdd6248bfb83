"""Every kind of sound becomes a translation or a clear error, and batching changes nothing."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
import soundfile

from aista.errors import AudioError, CheckpointError, ConfigError
from aista.inference.translating import GenerationSettings
from aista.inference.translator import Translator, load
from tests.evaluation.standins import Model, Processor, tone


def translator(batch_size: int = 4, max_new_tokens: int = 50, **options) -> Translator:
    generation = GenerationSettings(batch_size=batch_size, max_new_tokens=max_new_tokens)
    return Translator(Model(**options), Processor(), name="stand-in", generation=generation)


def test_one_sound_one_translation_and_many_sounds_a_list():
    one = translator().translate(tone(1.0), target="zh")
    assert (one.text, one.language, one.task, one.model) == ("中w3", "zh", "st", "stand-in")
    assert str(one) == one.text and one.duration_seconds == 1.0 and not one.warnings
    many = translator().translate([tone(1.0), tone(0.5)], target="ja")
    assert [row.text for row in many] == ["日w3", "日w2"]
    assert translator().transcribe(tone(1.0)).task == "asr"


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "opus"])
def test_every_container_and_rate_is_heard_alike(tmp_path, suffix):
    rate = 48_000 if suffix == "opus" else 44_100
    left = 0.3 * np.sin(2 * np.pi * 220 * np.arange(rate) / rate)
    path = tmp_path / f"stereo.{suffix}"
    kind, subtype = ("OGG", "OPUS") if suffix == "opus" else (None, None)
    soundfile.write(path, np.stack([left, left], axis=1), rate, format=kind, subtype=subtype)
    for sound in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert translator().translate(sound, target="zh").text in ("中w3", "中w4")


def test_eight_channels_at_192_khz(tmp_path):
    path = tmp_path / "studio.wav"
    soundfile.write(path, np.full((192_000, 8), 0.1), 192_000)
    assert translator().translate(path, target="zh").text == "中w3"


@pytest.mark.slow
def test_long_audio_is_heard_in_segments_that_leave_nothing_out():
    result = translator().translate(tone(600.0), target="ja")
    edges = [(row.start_seconds, row.end_seconds) for row in result.segments]
    assert edges[0][0] == 0 and edges[-1][1] == 600
    assert all(a[1] == b[0] for a, b in pairwise(edges))
    assert max(end - start for start, end in edges) <= 13 * 0.34 + 1e-9
    assert result.text == "".join(row.text for row in result.segments)
    spaced = translator().translate(tone(9.0), target="en")
    assert spaced.text == " ".join(row.text for row in spaced.segments)


def test_silence_says_so_and_is_never_sent_to_the_model():
    silent = translator()
    result = silent.translate(np.zeros(16_000 * 10, dtype=np.float32), target="zh")
    assert result.text == "" and all(row.silent for row in result.segments) and not silent.model.batches
    assert result.warnings[0].kind == "silence"
    half = np.concatenate([tone(4.0), np.zeros(16_000 * 8, dtype=np.float32), tone(4.0)])
    result = translator().translate(half, target="zh")
    assert "".join(row.text for row in result.segments if not row.silent) == result.text
    assert any(row.silent for row in result.segments) and any(
        "s: silent" in str(row) for row in result.warnings
    )


def test_a_tenth_of_a_second_is_answered_with_a_warning():
    result = translator().translate(tone(0.1), target="zh")
    assert result.text == "中w1" and result.warnings[0].kind == "too_short"


def test_an_answer_that_was_cut_is_marked():
    [one] = translator(max_new_tokens=2).translate(tone(1.0), target="zh").warnings
    assert one.kind == "cut" and "max_new_tokens = 2" in str(one)
    [many] = translator(max_new_tokens=2).translate(tone(40.0), target="zh").warnings
    assert "and " in str(many) and " more segments: " in str(many)  # one warning, however many segments
    assert not translator(max_new_tokens=4).translate(tone(1.0), target="zh").warnings  # the end token fits


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_batch_size_changes_no_text_and_no_order(batch_size):
    sounds = [tone(s) for s in (0.3, 9.0, 1.0, 0.5, 20.0, 2.0)]
    texts = [row.text for row in translator(batch_size).translate(sounds, target="zh")]
    assert texts == [translator(1).translate(sound, target="zh").text for sound in sounds]


def test_one_bad_sound_stands_in_its_place_and_stops_no_other(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("no sound at all")
    good = tmp_path / "good.wav"
    soundfile.write(good, tone(1.0), 16_000)
    sounds = [good, tmp_path / "missing.wav", tmp_path / "empty.wav", good, tmp_path / "text.wav", tmp_path]
    results = list(translator().stream(sounds, "zh"))
    assert [isinstance(row, AudioError) for row in results] == [False, True, True, False, True, True]
    for path, row in zip(sounds, results, strict=True):
        assert path.name in str(row if isinstance(row, AudioError) else row.source)
    with pytest.raises(AudioError, match=r"missing\.wav"):
        translator().translate(sounds, target="zh")


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((2, 100), np.float32), np.zeros(0, np.float32), np.zeros(9, np.int16), np.full(9, np.nan),
        np.full(9, 11_999.0),
    ],
)  # fmt: skip
def test_samples_that_are_none_are_refused(samples):
    with pytest.raises(AudioError):
        translator().translate(samples, target="zh")


def test_a_direction_the_model_does_not_know_lists_those_it_does():
    with pytest.raises(ConfigError, match="en-zh, en-ja"):
        translator(directions=("en-zh", "en-ja")).translate(tone(1.0), target="de")
    with pytest.raises(ConfigError, match="transcription of en"):
        translator(directions=("en-zh",)).transcribe(tone(1.0))
    assert translator(directions=()).translate(tone(1.0), target="de").text
    with pytest.raises(ConfigError, match="Unknown language"):
        translator(directions=()).translate(tone(1.0), target="klingon")


def test_load_refuses_what_is_not_there():
    with pytest.raises(CheckpointError, match="aista:nonesuch"):
        load("aista:nonesuch")
    with pytest.raises(ConfigError, match="num_beans"):
        load(num_beans=3)
