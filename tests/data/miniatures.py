"""Miniatures of the six corpora in their true layouts: real encoded files, the corpora's real quirks.

Each function fills a folder and returns what ``aista data prepare`` should find: split -> ids.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from aista.audio import write_audio


def sound(path: Path, seconds: float, rate: int = 16_000) -> None:
    """Write a noisy tone in the format of the suffix."""
    count = round(seconds * rate)
    rng = np.random.default_rng(len(path.name))
    samples = 0.2 * np.sin(np.arange(count) * 0.1) + rng.normal(0, 0.02, count)
    write_audio(path, samples, sample_rate_hz=rate)


def librispeech(folder: Path) -> dict[str, list[str]]:
    for split, speaker in (("train-clean-100", "103"), ("dev-clean", "84")):
        chapter = folder / "LibriSpeech" / split / speaker / "1240"
        names = [f"{speaker}-1240-000{i}" for i in range(3)]
        for name in names:
            sound(chapter / f"{name}.flac", 1.2)
        lines = [f"{name} CHAPTER ONE MISSUS I'M LYNDE" for name in names] + [f"{speaker}-1240-0009 NO FILE"]
        (chapter / f"{speaker}-1240.trans.txt").write_text("\n".join(lines) + "\n")
    return {
        split: [f"{s}-1240-000{i}" for i in range(3)]
        for split, s in (("train-clean-100", "103"), ("dev-clean", "84"))
    }


def gigaspeech(folder: Path) -> dict[str, list[str]]:
    sound(folder / "audio/podcast/P0000/POD0000000001.opus", 6.0)
    segments = [
        ("S0000001", 0.0, 2.0, "AS THEY'RE LEAVING <COMMA> CAN I GO <QUESTIONMARK>", ["{XL}", "{M}"]),
        ("S0000002", 2.0, 3.0, "<MUSIC>", ["{XL}", "{M}"]),
        ("S0000003", 3.5, 5.5, "DOUGLAS MCGRAY IS YOUR GUIDE <PERIOD>", ["{XL}"]),
        ("S0000004", 5.0, 9.0, "BEYOND THE END <PERIOD>", ["{XL}"]),
    ]
    recording = {
        "aid": "POD0000000001", "path": "audio/podcast/P0000/POD0000000001.opus", "format": "opus",
        "duration": 6.0, "sample_rate": 16000, "source": "podcast", "speaker": "N/A",
        "subsets": ["{XL}", "{M}"],
        "segments": [
            dict(sid=f"POD0000000001_{sid}", speaker="N/A", begin_time=b, end_time=e, text_tn=t, subsets=s)
            for sid, b, e, t, s in segments
        ],
    }  # fmt: skip
    other = {**recording, "subsets": ["{DEV}"], "segments": []}
    about = {"dataset": "GigaSpeech", "language": "EN", "audios": [recording, other], "version": "v1.0.0"}
    (folder / "GigaSpeech.json").write_text(json.dumps(about, indent=2))
    return {"M": ["POD0000000001_S0000001"], "XL": ["POD0000000001_S0000001", "POD0000000001_S0000003"]}


def wavcaps(folder: Path) -> dict[str, list[str]]:
    files = {
        "AudioSet_SL": "as_final.json",
        "BBC_Sound_Effects": "bbc_final.json",
        "FreeSound": "fsd_final.json",
    }
    ids = {
        "AudioSet_SL": ["Yb0RFKhbpFJA.wav", "Ygone.wav", "Y7fmOlUlwoNg.wav"],
        "BBC_Sound_Effects": ["NHU05093027", "07060061"],
        "FreeSound": ["180913", "90"],
    }
    for split, file in files.items():
        items = [
            {"id": i, "caption": f"A sound of {i}.", "duration": 1.5, "audio": "wav_path"} for i in ids[split]
        ]
        if split == "BBC_Sound_Effects":
            items.append({"id": "toolong", "caption": "An hour of rain.", "duration": 3600.0})
        place = folder / "json_files" / split
        place.mkdir(parents=True)
        (place / file).write_text(json.dumps({"num_captions_per_audio": 1, "data": items}))
    blacklist = folder / "json_files" / "blacklist"
    blacklist.mkdir()
    listed = {"AudioSet": ["Y7fmOlUlwoNg.wav", "Yother.wav"], "FreeSound": ["90", "NHU05093027"]}
    (blacklist / "blacklist_exclude_test_ac.json").write_text(json.dumps(listed))
    for name in ("Yb0RFKhbpFJA", "Y7fmOlUlwoNg"):
        sound(folder / "AudioSet_SL_flac" / f"{name}.flac", 1.5, 32_000)
    for name in ids["FreeSound"]:
        sound(folder / "FreeSound" / f"{name}.flac", 1.5, 32_000)
    for name in ids["BBC_Sound_Effects"]:
        sound(folder / "BBC_Sound_Effects" / f"{name}.flac", 1.5, 32_000)
    return {
        "AudioSet_SL": ["wavcaps-AudioSet_SL-Yb0RFKhbpFJA"],
        "BBC_Sound_Effects": [f"wavcaps-BBC_Sound_Effects-{i}" for i in ids["BBC_Sound_Effects"]],
        "FreeSound": ["wavcaps-FreeSound-180913"],
    }


def audiocaps(folder: Path) -> dict[str, list[str]]:
    rows = {
        "train": [
            (91139, "r1nicOVtvkQ", 130, "A woman talks nearby, as water pours"),
            (1, "vanished0000", 30, "Wind"),
        ],
        "test": [
            (103549, "7fmOlUlwoNg", 20, "Constant rattling"),
            (103548, "7fmOlUlwoNg", 20, "A boat engine"),
        ],
    }
    for split, lines in rows.items():
        text = "audiocap_id,youtube_id,start_time,caption\n"
        text += "".join(f'{a},{y},{s},"{c}"\n' for a, y, s, c in lines)
        (folder / "dataset").mkdir(parents=True, exist_ok=True)
        (folder / "dataset" / f"{split}.csv").write_text(text)
    sound(folder / "audio" / "train" / "r1nicOVtvkQ_130.wav", 1.0, 32_000)
    sound(folder / "audio" / "test" / "Y7fmOlUlwoNg.wav", 1.0, 44_100)
    return {"train": ["audiocaps-91139"], "test": ["audiocaps-103549", "audiocaps-103548"]}


def clotho(folder: Path) -> dict[str, list[str]]:
    folder.mkdir(parents=True)
    names = ["Distorted AM Radio noise.wav", "(Gate) Metal, 01 .wav"]
    header = "file_name," + ",".join(f"caption_{i}" for i in range(1, 6)) + "\n"
    lines = "".join(f'"{n}",' + ",".join(f'"Caption {i}, of it."' for i in range(1, 6)) + "\n" for n in names)
    (folder / "clotho_captions_development.csv").write_text(header + lines, encoding="utf-8")
    for name in names:
        sound(folder / "development" / name, 1.0, 44_100)
    return {"development": [f"clotho-development-{Path(n).stem}#{i}" for n in names for i in range(1, 6)]}


def covost2(folder: Path, direction: str = "en-ja") -> dict[str, list[str]]:
    src, tgt = direction.split("-")
    code = {"zh": "zh-CN"}.get(tgt, tgt)
    # (clip, sentence as the TSV has it, translation, split)
    rows = [
        ("common_voice_en_1.mp3", '"Oh," she said, ""no"".', "「ああ」と彼女は言った。", "train"),
        ("common_voice_en_2.mp3", "A back\\\\slash.", "バックスラッシュ。", "train_covost"),
        ("common_voice_en_3.mp3", "Only in dev.", "開発。", "dev"),
        ("common_voice_en_4.mp3", "Empty translation.", "", "train"),
        ("common_voice_en_5.mp3", "Not in this release.", "この版にない。", "train"),
        ("common_voice_en_6.mp3", "The clip is gone.", "クリップがない。", "train"),
        ("common_voice_en_7.mp3", "For the test.", "試験。", "test"),
    ]
    home = folder / "cv-corpus-4-2019-12-10" / src
    for clip, *_ in rows:
        if clip not in ("common_voice_en_5.mp3", "common_voice_en_6.mp3"):
            sound(home / "clips" / clip, 1.5, 48_000)
    header = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\n"
    validated = "".join(
        f"{'ab' * 64}\t{clip}\t{text}\t2\t0\t\t\t\n"
        for clip, text, *_ in rows
        if clip != "common_voice_en_5.mp3"
    )
    validated += f"{'cd' * 64}\tcommon_voice_en_99.mp3\tNot in CoVoST.\t2\n"  # a short line, an unused clip
    (home / "validated.tsv").write_text(header + validated, encoding="utf-8")
    table = "path\ttranslation\tsplit\n" + "".join(f"{c}\t{t}\t{s}\n" for c, _, t, s in rows)
    (folder / f"covost_v2.{src}_{code}.tsv").write_text(table, encoding="utf-8")
    return {
        split: [f"common_voice_en_{i}.{direction}" for i in numbers]
        for split, numbers in (("train", (1, 2)), ("dev", (3,)), ("test", (7,)))
    }


ALL = {f.__name__: f for f in (librispeech, gigaspeech, wavcaps, audiocaps, clotho, covost2)}
