"""The corpora of the embedded demo: manifests and audio, made shard by shard in fresh processes.

A corpus folder holds ``<corpus>.jsonl`` (rows as in ``aista.data.manifest``), ``audio/<corpus>/*.flac``
and, per shard, ``shards/<corpus>-NNN.json`` with the sha256 of its PCM. A finished shard is never made
again, so an interrupted build goes on where it stopped; equal scale and seed give equal bytes.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
import soundfile

from aista.demo import grammar, speech
from aista.demo.grammar import Sentence
from aista.errors import ConfigError
from aista.files import write_whole
from aista.processes import cores

SHARD_SIZE = 250
TARGETS = ("zh", "ja")


@dataclass(frozen=True)
class Scale:
    """How much of everything is made.

    Attributes:
        whisper, whisper_dev: Utterances the stand-in speech encoder learns from, and is tested on.
        tagging: Sounds the stand-in sound encoder learns from.
        asr: Utterances of stage 1 (every word; a fifth are phrase lists).
        aac: Captioned sounds of stage 1.
        st: Utterances of stage 3 (no rare word), one row per target language.
        dev, test_common, test_rare, select: Utterances with held-out pairs, by held-out speakers.
        seed: Of everything.
    """

    whisper: int = 0
    whisper_dev: int = 0
    tagging: int = 0
    asr: int = 0
    aac: int = 0
    st: int = 0
    dev: int = 0
    test_common: int = 0
    test_rare: int = 0
    select: int = 0
    seed: int = 0


SCALES: dict[str, Scale] = {
    "nano": Scale(
        whisper=48, whisper_dev=8, tagging=48, asr=32, aac=8, st=16,
        dev=8, test_common=8, test_rare=8, select=8,
    ),
    "demo": Scale(st=2_000, dev=150, test_common=200, test_rare=200, select=200),
    "full": Scale(
        whisper=11_000, whisper_dev=300, tagging=2_500, asr=9_000, aac=1_200, st=5_000,
        dev=150, test_common=300, test_rare=300, select=1_000,
    ),
}  # fmt: skip
CORPORA = (
    "whisper", "whisper_dev", "tagging", "asr", "aac", "st", "dev", "test_common", "test_rare", "select",
)  # fmt: skip
_PHRASE_SHARE = {"whisper": 0.3, "asr": 0.2}
_VOCABULARY: dict[str, grammar.Vocabulary] = {"st": "common", "test_common": "common", "test_rare": "rare"}
_TRAINING = frozenset({"whisper", "asr", "st"})
_SOUNDS = frozenset({"tagging", "aac"})
# Corpora with translations; the others are transcribed only.
TRANSLATED = frozenset({"st", "dev", "test_common", "test_rare"})


class Sound(Protocol):
    """A sound that is described and not spoken (``tools/standins/sounds.py`` draws such)."""

    @property
    def caption(self) -> str:
        """What a listener would say."""

    def render(self, *, seed: int) -> np.ndarray:
        """Return its samples: float32 at 16 kHz."""


@dataclass(frozen=True)
class Item:
    """One sound to make: a text with a voice, or a described sound."""

    key: str
    seed: int
    text: str
    zh: str = ""
    ja: str = ""
    voice: speech.Voice | None = None
    sound: Sound | None = None


def items(corpus: str, scale: Scale, draw_sound: Callable[[Random], Sound] | None = None) -> list[Item]:
    """Describe every sound of a corpus, without making it.

    Args:
        corpus: Its name.
        scale: How much of it.
        draw_sound: Draws the sounds of ``tagging`` and ``aac``.

    Raises:
        ConfigError: There is no such corpus, or nothing that draws its sounds.
    """
    if corpus not in CORPORA:
        raise ConfigError(f"Unknown corpus {corpus!r}.", expected=", ".join(CORPORA))
    count = getattr(scale, corpus)
    # Each corpus draws from its own stream: its size does not change the others.
    seed = grammar.stable_hash("corpus", corpus, str(scale.seed)) % 2**31
    rng = Random(f"voices {corpus} {scale.seed}")
    if corpus in _SOUNDS:
        if draw_sound is None:
            raise ConfigError(f"Nothing draws the sounds of {corpus!r}.", advice="Give draw_sound.")
        drawn = [draw_sound(rng) for _ in range(count)]
        return [
            Item(f"{corpus}-{i:05d}", rng.randrange(2**31), sound.caption, sound=sound)
            for i, sound in enumerate(drawn)
        ]
    split: grammar.Split = "train" if corpus in _TRAINING else "test"
    variants = speech.TRAIN_VARIANTS if corpus in _TRAINING else speech.TEST_VARIANTS
    listed = round(count * _PHRASE_SHARE.get(corpus, 0.0))  # phrases, which have no translation
    texts = grammar.sentences(count - listed, seed, split=split, vocabulary=_VOCABULARY.get(corpus, "all"))
    texts += [Sentence(text, "", "", (), ()) for text in grammar.phrases(listed, seed, split=split)]
    Random(f"order {corpus} {seed}").shuffle(texts)
    return [
        Item(
            f"{corpus}-{i:05d}", rng.randrange(2**31), sentence.en, sentence.zh, sentence.ja,
            voice=speech.draw_voice(rng, variants),
        )
        for i, sentence in enumerate(texts)
    ]  # fmt: skip


@dataclass(frozen=True)
class _Job:
    corpus: str
    index: int
    folder: Path
    items: tuple[Item, ...]

    @property
    def record(self) -> Path:
        return self.folder / "shards" / f"{self.corpus}-{self.index:03d}.json"

    @property
    def fingerprint(self) -> str:
        return sha256(repr(self.items).encode()).hexdigest()

    @property
    def is_finished(self) -> bool:
        return self.record.exists() and json.loads(self.record.read_text())["fingerprint"] == self.fingerprint


def _make_shard(job: _Job) -> None:
    """Make one shard in a process of its own."""
    audio = job.folder / "audio" / job.corpus
    audio.mkdir(parents=True, exist_ok=True)
    digest, made, dropped = sha256(), {}, []
    for item in job.items:
        samples = (
            item.sound.render(seed=item.seed)
            if item.sound
            else speech.utter(item.text, item.voice, seed=item.seed)  # type: ignore[arg-type]
        )
        if samples is None:
            dropped.append(item.key)
            continue
        pcm = np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)
        digest.update(pcm.astype("<i2").tobytes())
        soundfile.write(audio / f"{item.key}.flac", pcm, speech.SAMPLE_RATE_HZ, subtype="PCM_16")
        made[item.key] = len(samples)
    record = {
        "fingerprint": job.fingerprint, "sha256": digest.hexdigest(), "num_samples": made, "dropped": dropped,
    }  # fmt: skip
    write_whole(job.record, json.dumps(record))


def _rows(corpus: str, item: Item, num_samples: int, task: str) -> Iterator[dict[str, object]]:
    """The manifest rows of one sound for a task: one, or for ``st`` one per target language."""
    row: dict[str, object] = {
        "id": item.key,
        "audio": f"audio/{corpus}/{item.key}.flac",
        "duration": num_samples / speech.SAMPLE_RATE_HZ,
        "src_lang": "en",
        "tgt_lang": "en",
        "text": item.text,
        "task": task,
        **({"speaker": item.voice.speaker} if item.voice else {}),
        "corpus": f"demo-{corpus}",
    }
    if task != "st":
        yield row
        return
    for target, translation in (("zh", item.zh), ("ja", item.ja)):
        if translation:  # word lists have none
            yield row | {"id": f"{item.key}-{target}", "tgt_lang": target, "translation": translation}


def _write_manifests(folder: Path, corpus: str, drawn: list[Item], lengths: dict[str, int]) -> None:
    """Write ``CORPUS.jsonl`` and, of what can be transcribed and translated, the other task beside it."""
    main = "aac" if corpus in _SOUNDS else "st" if corpus in TRANSLATED else "asr"
    tasks = {corpus: main}
    if corpus in TRANSLATED:
        tasks[f"{corpus}_asr"] = "asr"
    if corpus == "asr":
        tasks["asr_st"] = "st"
    made = [item for item in drawn if item.key in lengths]
    for name, task in tasks.items():
        lines = (
            json.dumps(row, ensure_ascii=False)
            for item in made
            for row in _rows(corpus, item, lengths[item.key], task)
        )
        write_whole(folder / f"{name}.jsonl", "\n".join(lines) + "\n")


def build(
    folder: Path | str,
    scale: Scale,
    *,
    corpora: tuple[str, ...] = CORPORA,
    draw_sound: Callable[[Random], Sound] | None = None,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, object]]:
    """Make corpora; what is finished already is kept.

    Args:
        folder: Where manifests, audio and shard records go.
        scale: How much of each.
        corpora: Which; those of size 0 are skipped.
        draw_sound: Draws what is described and not spoken, see ``items``.
        processes: Processes at a time (each shard has a fresh one); the number of cores by default.
        progress: Called with (utterances done, utterances in all) after each shard.

    Returns:
        Per corpus: ``utterances``, ``dropped`` (too long for the encoder), ``seconds`` and the ``sha256`` of
        its shards.

    Raises:
        AistaError: espeakng-loader is not installed.
        ConfigError: As ``items``.
    """
    folder = Path(folder)
    drawn = {corpus: items(corpus, scale, draw_sound) for corpus in corpora if getattr(scale, corpus, 1)}
    jobs = [
        _Job(corpus, index, folder, tuple(entries[start : start + SHARD_SIZE]))
        for corpus, entries in drawn.items()
        for index, start in enumerate(range(0, len(entries), SHARD_SIZE))
    ]
    if any(job.corpus not in _SOUNDS for job in jobs):
        speech.require()
    _run(jobs, processes or cores(), progress)
    facts: dict[str, dict[str, object]] = {}
    for corpus, entries in drawn.items():
        records = [json.loads(job.record.read_text()) for job in jobs if job.corpus == corpus]
        lengths = {key: length for record in records for key, length in record["num_samples"].items()}
        _write_manifests(folder, corpus, entries, lengths)
        facts[corpus] = {
            "utterances": len(lengths),
            "dropped": sum(len(record["dropped"]) for record in records),
            "seconds": round(sum(lengths.values()) / speech.SAMPLE_RATE_HZ, 1),
            "sha256": sha256("".join(record["sha256"] for record in records).encode()).hexdigest(),
        }
    known = folder / "corpus.json"
    before = json.loads(known.read_text())["corpora"] if known.exists() else {}
    write_whole(known, json.dumps({"scale": asdict(scale), "corpora": before | facts}, indent=2))
    return facts


def _run(jobs: list[_Job], processes: int, progress: Callable[[int, int], None] | None) -> None:
    waiting = [job for job in jobs if not job.is_finished]
    total = sum(len(job.items) for job in jobs)
    done = total - sum(len(job.items) for job in waiting)
    if waiting:
        context = multiprocessing.get_context("spawn")
        with context.Pool(min(processes, len(waiting)), maxtasksperchild=1) as pool:
            for job, _ in zip(waiting, pool.imap(_make_shard, waiting, chunksize=1), strict=True):
                done += len(job.items)
                if progress:
                    progress(done, total)
