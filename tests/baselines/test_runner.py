"""The protocol between two Pythons, with a runner that misbehaves; the shipped script in a fake world."""

from __future__ import annotations

import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from aista.baselines import baseline
from aista.baselines.qwen_audio import Runner, script
from aista.errors import ConfigError, EvaluationError, ModelInputError
from aista.inference.translating import Request

FAKE = """
import json, sys, time
print(json.dumps({"ready": True, "versions": {"transformers": "0"}}), flush=True)
for line in sys.stdin:
    row = json.loads(line)
    print("noise on stderr", file=sys.stderr, flush=True)
    if "die" in row["prompt"]:
        sys.exit("it hurts")
    if "hang" in row["prompt"]:
        time.sleep(60)
    if "garbage" in row["prompt"]:
        print("loading...", flush=True)
        continue
    error = "ValueError: no" if "fail" in row["prompt"] else None
    print(json.dumps({"id": row["id"], "hyp": row["prompt"] + "中", "error": error}), flush=True)
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    path = tmp_path / "fake.py"
    path.write_text(FAKE, encoding="utf-8")
    return path


def test_answers_failures_deaths_and_silence_are_answers(fake):
    runner = Runner([sys.executable, str(fake)], start_seconds=60, answer_seconds=5)
    ask = lambda text: runner.ask({"id": "1", "prompt": text})  # noqa: E731
    assert ask("a").text == "a中" and runner.versions == {"transformers": "0"}
    assert ask("fail").error == "ValueError: no"
    assert "it hurts" in ask("die").error and ask("b").text == "b中"  # it was started again
    assert "no answer" in ask("garbage").error and ask("c").text == "c中"
    runner.answer_seconds = 0.3
    started = time.monotonic()
    assert "no answer" in ask("hang").error and time.monotonic() - started < 20
    runner.answer_seconds = 30
    assert ask("d").text == "d中"
    runner.stop()
    runner.stop()


def test_a_runner_that_cannot_start_or_always_dies_ends_the_evaluation(tmp_path, fake):
    with pytest.raises(ConfigError, match="cannot be started"):
        Runner([str(tmp_path / "no_python"), str(fake)]).start()
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no module named torch')")
    with pytest.raises(EvaluationError, match="no module named torch"):
        Runner([sys.executable, str(broken)], start_seconds=60).start()
    runner = Runner([sys.executable, str(fake)], start_seconds=60, answer_seconds=10)
    with pytest.raises(EvaluationError, match="again and again"):
        [runner.ask({"id": "1", "prompt": "die"}) for _ in range(3)]


WORLD = {
    "torch.py": """
        import contextlib
        __version__ = "2.1.2"
        no_grad = contextlib.nullcontext
    """,
    "transformers.py": """
        import wave
        __version__ = "4.32.0"

        class Ids:
            def __init__(self, row): self.row = row
            def size(self, axis): return len(self.row)
            def __getitem__(self, place): return Ids(self.row[place[1]])
            def tolist(self): return list(self.row)

        class Inputs(dict):
            def to(self, device): return self

        class Tokenizer:
            eod_id = 0
            def process_audio(self, query):
                path = query.split("<audio>")[1].split("</audio>")[0]
                with wave.open(path) as sound:
                    return {"frames": sound.getnframes()}
            def __call__(self, query, return_tensors, audio_info):
                assert query.endswith("<|translate|><|ja|><|notimestamps|><|itn|>"), query
                return Inputs(input_ids=Ids([7, 7, 7]))
            def decode(self, ids, skip_special_tokens): return " ".join(map(str, ids)) + "\\n"

        class Model:
            device = "cpu"
            def eval(self): return self
            def generate(self, input_ids, audio_info, max_new_tokens, num_beams, do_sample, **rest):
                assert rest["eos_token_id"] == 0 and not do_sample
                if audio_info["frames"] == 4000: raise RuntimeError("out of memory")
                return Ids([*input_ids.row, audio_info["frames"], num_beams, 0, 0])

        class AutoTokenizer:
            @staticmethod
            def from_pretrained(name, trust_remote_code, revision):
                print("audio_start_id: 1")  # as the real one does, on stdout
                assert (name, trust_remote_code, revision) == ("Qwen/Qwen-Audio", True, "abc")
                return Tokenizer()

        class AutoModelForCausalLM:
            @staticmethod
            def from_pretrained(name, device_map, **_): return Model()
    """,
}


def test_the_shipped_runner_speaks_the_protocol_whatever_its_libraries_print(tmp_path, monkeypatch):
    for name, text in WORLD.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    search = {"max_new_tokens": 9, "num_beams": 2}
    found = baseline("qwen_audio", python=sys.executable, revision="abc", device="cpu", generation=search)
    assert found.card["versions"] == {"torch": "2.1.2", "transformers": "4.32.0"}
    pieces = [np.tile(np.float32([0.1, -0.1]), n // 2) for n in (8_000, 4_000, 16_000)]
    answers = found.answer(pieces, Request("st", "en", "ja"))
    assert [row.text for row in answers] == ["8000 2", "", "16000 2"] and all(row.finished for row in answers)
    assert "out of memory" in answers[1].error
    with pytest.raises(ModelInputError, match="out of memory"):
        found.translate(pieces[1], target="ja")
    with pytest.raises(ConfigError, match="en-cy"):
        found.translate(pieces[0], target="cy")
    found.close()


def test_the_environment_is_pinned_and_asked_for():
    pins = script("qwen_audio.requirements.txt").read_text().splitlines()
    assert all("==" in line for line in pins if not line.startswith("#"))
    assert "transformers==4.32.0" in pins
    with pytest.raises(ConfigError, match=r"qwen_audio\.requirements\.txt"):
        baseline("qwen_audio")
