"""``docs/guides/own-data.md`` does what it says: every block is run, in order, on tiny models."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from aista.audio import write_audio
from aista.cli import main
from aista.cli.data import app as data_app
from aista.data.manifest import Manifest, Utterance, write_manifest
from tests.tiny import TEXTS, language_model, whisper

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "own-data.md"
BLOCK = re.compile(r"^```(bash|yaml|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The guide's numbers are for real models.
FEWER = {
    "max_steps: 4000": "max_steps: 2",
    "_steps: 500": "_steps: 2",
    "warmup_steps: 200": "warmup_steps: 1",
    "num_pairs: 200": "num_pairs: 4",
    "threshold_times_chance: 6.7": "threshold_times_chance: 0.1",
    "max_steps=20": "max_steps=2",
    "_steps=10": "_steps=2",
    "warmup_steps=5": "warmup_steps=1",
}
# Models that learnt nothing find no end.
SHORTER = {
    "evaluate": ["--set", "generation.max_new_tokens=4"],
    "translate": ["--max-new-tokens", "4"],
}
SMALLER = "  qformer: {hidden_size: 16, num_attention_heads: 2, intermediate_size: 24}\n"


PARTS = ("asr.train", "asr.dev", "st.train", "st.dev", "st.test")


def recordings(path):
    """What the rows of a manifest are recorded in, whatever the rows are called."""
    return {hashlib.sha256(Manifest(path).audio_path(row).read_bytes()).digest() for row in Manifest(path)}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for speaker in ("ann", "bob"):
        for number in range(1, 6):
            name = tmp_path / "recordings" / f"{speaker}_{number:03d}"
            write_audio(name.with_suffix(".wav"), rng.normal(0, 0.1, 8_000 + 1_000 * number))
            name.with_suffix(".txt").write_text(TEXTS[number])
            name.with_suffix(".zh.txt").write_text("铃响了。", encoding="utf-8")
    whisper(tmp_path / "models" / "whisper")
    language_model(tmp_path / "models" / "llm")
    (tmp_path / "lines.txt").write_text("recordings/ann_001.wav|Hello.\nrecordings/gone.wav|Good night.\n")
    (tmp_path / "mypackage").mkdir()
    monkeypatch.syspath_prepend(tmp_path)  # as PYTHONPATH=. does
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_block(workplace):
    main._add_verbs()
    for language, text in BLOCK.findall(GUIDE.read_text(encoding="utf-8")):
        for number, fewer in FEWER.items():
            text = text.replace(number, fewer)
        if text.startswith("# "):  # a file, and its name
            name = text.splitlines()[0].removeprefix("# ")
            Path(name).write_text(
                text.replace("  backbone: models/llm\n", f"  backbone: models/llm\n{SMALLER}")
            )
        elif language == "python":
            exec(compile(text, str(GUIDE), "exec"), {})
        else:
            for line in text.replace("\\\n", "").strip().splitlines():
                program, *arguments = shlex.split(line.removeprefix("PYTHONPATH=. "))
                assert program == "aista"
                arguments += SHORTER.get(arguments[0], [])
                done = CliRunner().invoke(main.app, arguments)
                assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
    parts = {name: recordings(f"data/{name}.jsonl") for name in PARTS}
    assert all(parts.values())
    seen_in_training = parts["asr.train"] | parts["st.train"]
    validated_on = parts["asr.dev"] | parts["st.dev"]
    assert not parts["st.test"] & (seen_in_training | validated_on)
    assert not seen_in_training & validated_on
    assert all(row.duration is not None for row in Manifest("data/asr.jsonl"))
    results = json.loads((workplace / "runs/joint/test/results.json").read_text())
    assert any(name.startswith("bleu") for name in results["scores"])
    assert os.path.exists("shards/st.train-000000.tar")
    assert [row.text for row in Manifest("data/lines.jsonl")] == ["Hello.", "Good night."]
    assert [len(Manifest(f"data/speakers/{name}.jsonl")) for name in ("ann", "bob")] == [5, 5]


@pytest.mark.parametrize("seed", range(5))
def test_the_split_of_the_guide_keeps_test_recordings_to_the_test(tmp_path, monkeypatch, seed):
    """As printed there, for recordings of which not all are translated, whatever the seed."""
    monkeypatch.chdir(tmp_path)
    rows = [Utterance(id=f"a{i}", audio=f"../rec/{i}.wav", text="x") for i in range(60)]
    write_manifest("data/asr.jsonl", rows)
    translated = [row.model_copy(update={"task": "st", "tgt_lang": "zh", "translation": "x"}) for row in rows]
    write_manifest("data/st.jsonl", [row for i, row in enumerate(translated) if i % 3])
    (line,) = [
        line
        for language, text in BLOCK.findall(GUIDE.read_text(encoding="utf-8"))
        for line in text.split("\n")
        if language == "bash" and line.startswith("aista data split")
    ]
    done = CliRunner().invoke(data_app, [*shlex.split(line)[2:], "--seed", str(seed)])
    assert done.exit_code == 0, done.output
    audio = {name: {row.audio for row in Manifest(f"data/{name}.jsonl")} for name in PARTS}
    assert all(audio.values())
    others = audio["asr.train"] | audio["asr.dev"] | audio["st.train"] | audio["st.dev"]
    assert not audio["st.test"] & others
    assert not (audio["asr.train"] | audio["st.train"]) & (audio["asr.dev"] | audio["st.dev"])
