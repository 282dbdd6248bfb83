"""Where every speaker has a channel, a row has its own speaker's sound, or is counted."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from aista.audio import load_audio
from aista.cli.data import app
from aista.data.checks import check
from aista.data.dataset import SpeechDataset
from aista.data.importers import Options, export_manifest, import_manifest
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.data.rearrange import write_shards
from aista.errors import AudioError, ConfigError, ManifestError

LEVELS = (0.1, 0.2, 0.4)


@pytest.fixture
def folder(tmp_path):
    """``call.wav``: three channels that are loud as in LEVELS; ``c0.wav`` to ``c2.wav``: each alone."""
    time = np.arange(2 * 16_000)
    channels = [level * np.sign(np.sin(time / (9 + number))) for number, level in enumerate(LEVELS)]
    soundfile.write(tmp_path / "call.wav", np.stack(channels, axis=1), 16_000)
    for number, samples in enumerate(channels):
        soundfile.write(tmp_path / f"c{number}.wav", samples, 16_000)
    return tmp_path


def channel_of(manifest, row):
    """Which channel the sound of a row is; None: none of them alone."""
    samples = load_audio(manifest.audio_path(row), **row.span)
    found = [n for n, level in enumerate(LEVELS) if abs(np.abs(samples).mean() - level) < 0.005]
    return found[0] if found else None


def imported(folder, name, rows, **options):
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = import_manifest(name, path, folder / "out.jsonl", Options(**options))
    return result, Manifest(folder / "out.jsonl") if result.rows else None


# ---- what a channel is


@pytest.mark.parametrize("channel", [None, 0, 1, 2])
def test_a_row_is_its_channel_everywhere(folder, channel):
    row = Utterance(id="u", audio="call.wav", offset=0.5, duration=1.0, channel=channel, text="x")
    write_manifest(folder / "m.jsonl", [row])
    manifest = Manifest(folder / "m.jsonl")
    assert manifest[0] == row and channel_of(manifest, row) == channel
    assert check(manifest, decode=True).ok
    write_shards(manifest, folder / "shards")
    held = Manifest(folder / "shards" / "m.jsonl")
    assert channel_of(held, held[0]) == channel and held[0].channel is None


def test_rows_of_two_channels_do_not_share_kept_features(folder):
    rows = [Utterance(id=f"u{n}", audio="call.wav", channel=n, text="x") for n in (None, 0, 1)]
    write_manifest(folder / "m.jsonl", rows)
    dataset = SpeechDataset(Manifest(folder / "m.jsonl"))
    assert len({dataset.feature_key(row) for row in dataset.utterances()}) == 3 == len(dataset.clips())
    plain = Utterance(id="v", audio=str(folder / "call.wav"), text="x")
    assert dataset.feature_key(plain).endswith("@0.0+None")  # what was kept before stays known


@pytest.mark.parametrize("decode", [False, True])
def test_a_channel_that_is_not_there_is_found(folder, decode):
    write_manifest(folder / "m.jsonl", [Utterance(id="u", audio="call.wav", channel=3, text="x")])
    report = check(Manifest(folder / "m.jsonl"), decode=decode)
    assert not report.ok and "no channel 3 (of 3)" in str(report.to_dict()["problems"])
    with pytest.raises(AudioError, match="no channel 3"):
        _ = SpeechDataset(Manifest(folder / "m.jsonl"))[0]


# ---- lhotse


def cut(channel, sources, supervision=None, kind="MonoCut", **recording):
    held = [c for source in sources for c in source.get("channels", [])]
    place = {} if supervision is None else {"channel": supervision}
    said = {"id": f"s-{channel}-{supervision}", "start": 0, "duration": 1.0, "text": "x", **place}
    return {
        "id": f"cut-{channel}-{supervision}", "start": 0.5, "duration": 1.0, "type": kind,
        **({} if channel is None else {"channel": channel}),
        "recording": {"id": "call", "sources": sources, "channel_ids": held, **recording},
        "supervisions": [said],
    }  # fmt: skip


WHOLE = [{"type": "file", "channels": [0, 1, 2], "source": "call.wav"}]
SHIFTED = [{"type": "file", "channels": [5, 6, 7], "source": "call.wav"}]
APART = [{"type": "file", "channels": [n], "source": f"c{n}.wav"} for n in range(3)]


@pytest.mark.parametrize(
    ("row", "heard"),
    [
        *((cut(n, WHOLE, n), n) for n in range(3)),
        *((cut(n, WHOLE), n) for n in range(3)),
        *((cut(5 + n, SHIFTED, 5 + n), n) for n in range(3)),
        *((cut(n, APART, n), n) for n in range(3)),
        (cut([0, 1, 2], WHOLE, 1, "MultiCut"), 1),
        (cut([0, 1, 2], WHOLE, [2], "MultiCut"), 2),
        (cut([0, 1, 2], WHOLE, [0, 1, 2], "MultiCut"), None),
        (cut([0, 1, 2], APART, 2, "MultiCut"), 2),
        (cut(None, WHOLE, 2), 2),
        (cut(None, APART[1:2]), 1),
        (cut(1, [WHOLE[0], APART[0]], 1), 1),
    ],
)
def test_lhotse_rows_get_their_own_channel(folder, row, heard):
    result, manifest = imported(folder, "lhotse", [row])
    assert result.rows == 1 and not result.skipped
    assert channel_of(manifest, manifest[0]) == heard
    assert check(manifest, decode=True).ok


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (cut(0, WHOLE, 1), "another channel"),
        (cut(7, WHOLE, 7), "does not have"),
        (cut(None, WHOLE), "not said"),
        (cut(None, APART), "not said"),
        (cut([0, 1, 2], WHOLE, [0, 1], "MultiCut"), "some of several"),
        (cut([0, 1, 2], APART, [0, 1], "MultiCut"), "several files"),
        (cut(0, WHOLE, transforms=[{"name": "Speed", "kwargs": {"factor": 1.1}}]), "Speed"),
        (cut(0, WHOLE, transforms=[{"name": "Tempo", "kwargs": {"factor": 0.9}}]), "Tempo"),
        (cut(0, WHOLE, transforms=[{"name": "Volume", "kwargs": {"factor": 2}}]), "Volume"),
        (cut(0, WHOLE, transforms=[{"name": "ReverbWithImpulseResponse", "kwargs": {}}]), "Reverb"),
        (cut(0, WHOLE, transforms=["Speed"]), "Speed"),
        (
            cut(0, WHOLE, transforms=[{"name": "Resample", "kwargs": {"target_sampling_rate": 8000}}]),
            "Resample",
        ),
        ({**cut(0, WHOLE), "type": "MixedCut", "tracks": []}, "MixedCut"),
        ({**cut(0, WHOLE), "type": "PaddingCut"}, "PaddingCut"),
        (cut(0, [{"type": "command", "channels": [0], "source": "sph2pipe x"}]), "no file"),
        (cut(0, [{"type": "url", "channels": [0], "source": "http://x/y.wav"}]), "no file"),
    ],
)
def test_lhotse_rows_without_a_sound_of_their_own_are_counted(folder, row, reason):
    result, _ = imported(folder, "lhotse", [row, cut(1, WHOLE, 1)])
    assert result.rows == 1
    ((said, count),) = result.skipped.items()
    assert count == 1 and reason in said and result.examples[said][0].endswith("in.jsonl:1")


def test_another_rate_that_keeps_what_a_model_hears_changes_nothing(folder):
    effect = {"name": "Resample", "kwargs": {"source_sampling_rate": 48_000, "target_sampling_rate": 16_000}}
    result, manifest = imported(folder, "lhotse", [cut(2, WHOLE, 2, transforms=[effect])])
    assert result.rows == 1 and channel_of(manifest, manifest[0]) == 2


# ---- NeMo, tables, data sets


@pytest.mark.parametrize(
    ("fields", "heard"),
    [
        *(({"channel_selector": n}, n) for n in range(3)),
        ({"channel": 1}, 1), ({"channel": "2"}, 2), ({"channel_selector": [1]}, 1),
        ({"channel_selector": "average"}, None), ({"channel_selector": None}, None), ({}, None),
    ],
)  # fmt: skip
def test_nemo_rows_get_their_own_channel(folder, fields, heard):
    _, manifest = imported(folder, "nemo", [{"audio_filepath": "call.wav", "text": "x", **fields}])
    assert channel_of(manifest, manifest[0]) == heard
    assert manifest[0].duration == 2.0


@pytest.mark.parametrize(
    "fields",
    [{"channel_selector": [0, 1]}, {"channel": "left"}, {"channel": -1}, {"channel": 1.5}, {"channel": True}],
)
def test_nemo_rows_of_several_channels_are_counted(folder, fields):
    rows = [{"audio_filepath": "call.wav", "text": "x", **fields}, {"audio_filepath": ["c0.wav", "c1.wav"]}]
    result, _ = imported(folder, "nemo", rows)
    assert result.rows == 0 and sum(result.skipped.values()) == 2


def test_tables_name_a_channel(folder):
    (folder / "t.csv").write_text("audio,channel,text\ncall.wav,2,x\ncall.wav,,y\ncall.wav,0,z\n")
    import_manifest("table", folder / "t.csv", folder / "m.jsonl", Options())
    manifest = Manifest(folder / "m.jsonl")
    assert [channel_of(manifest, row) for row in manifest] == [2, None, 0]


def test_a_column_that_is_called_channel_and_is_none(folder):
    (folder / "t.csv").write_text("audio,channel,text\ncall.wav,TED,x\n")
    with pytest.raises(ManifestError, match=r"t\.csv:2, column channel: no whole number"):
        import_manifest("table", folder / "t.csv", folder / "m.jsonl", Options())
    command = ["import", str(folder / "t.csv"), "--format", "table", "--column", "channel="]
    assert CliRunner().invoke(app, [*command, "--out", str(folder / "m.jsonl")]).exit_code == 0
    assert Manifest(folder / "m.jsonl")[0].channel is None
    with pytest.raises(ConfigError, match="several columns of one name"):
        (folder / "t.csv").write_text("audio,text,text\ncall.wav,x,y\n")
        import_manifest("table", folder / "t.csv", folder / "m.jsonl", Options())


@pytest.mark.parametrize("name", ["lhotse", "nemo", "table"])
@pytest.mark.parametrize("channel", [None, 1])
def test_channels_survive_formats_that_hold_them(folder, name, channel):
    write_manifest(folder / "m.jsonl", [Utterance(id="u", audio="call.wav", channel=channel, text="x")])
    file = folder / f"x{'.csv' if name == 'table' else '.jsonl'}"
    export_manifest(name, Manifest(folder / "m.jsonl"), file)
    import_manifest(name, file, folder / "back.jsonl", Options())
    back = Manifest(folder / "back.jsonl")
    assert back[0].channel == channel and channel_of(back, back[0]) == channel


@pytest.mark.parametrize("name", ["salmonn", "qwen", "slam"])
def test_channels_are_refused_by_formats_that_do_not(folder, name):
    write_manifest(folder / "m.jsonl", [Utterance(id="u", audio="call.wav", channel=1, text="x")])
    with pytest.raises(ManifestError, match="cannot say so"):
        export_manifest(name, Manifest(folder / "m.jsonl"), folder / "x.json")
