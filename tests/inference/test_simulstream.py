"""simulstream's own inference drives our streams, and its log holds the text that ours give."""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

pytest.importorskip("simulstream", reason="needs pip install '.[streaming]'")
pytest.importorskip("espeakng_loader")


@pytest.mark.slow
def test_simulstream_inference_runs_our_stream(tmp_path, monkeypatch, caplog):
    from random import Random

    from simulstream import inference

    import aista
    from aista.demo.speech import TEST_VARIANTS, draw_voice, utter
    from aista.inference.streaming import Stream

    texts = ["The doctor has bought a newspaper.", "She will return to Tokyo by plane."]
    clips = [utter(text, draw_voice(Random(i), TEST_VARIANTS), seed=i) for i, text in enumerate(texts)]
    samples = np.concatenate([np.concatenate([clip, np.zeros(16_000, np.float32)]) for clip in clips])
    soundfile.write(tmp_path / "talk.wav", samples, 16_000, subtype="PCM_16")
    (tmp_path / "list.txt").write_text(str(tmp_path / "talk.wav"))
    (tmp_path / "config.yaml").write_text(
        "type: aista.inference.simulstream.AistaProcessor\nspeech_chunk_size: 1.0\ntarget_language: ja\n"
    )
    log = tmp_path / "metrics.jsonl"
    arguments = ["--speech-processor-config", str(tmp_path / "config.yaml")]
    arguments += ["--wav-list-file", str(tmp_path / "list.txt"), "--tgt-lang", "zh"]
    monkeypatch.setattr(sys, "argv", ["simulstream_inference", *arguments, "--metrics-log-file", str(log)])
    caplog.set_level("INFO", logger="fbk_fairseq.simultaneous.metrics")
    inference.cli_main()
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").split("\n") if line]
    said = "".join(token for row in rows for token in row.get("generated_tokens", []))
    stream = Stream(aista.load(), "zh", chunk_seconds=1.0)
    heard = np.round(samples * 32768) / 32768
    for start in range(0, len(heard), 16_000):
        stream.push(heard[start : start + 16_000].astype(np.float32))
    stream.finish()
    assert said == stream.text and said
    assert not any(row.get("deleted_tokens") for row in rows)


def test_clients_take_turns_at_the_model(monkeypatch):
    """simulstream's server asks the processors of its pool from threads; they share a model."""
    from aista.audio import speech
    from aista.inference.simulstream import AistaProcessor
    from aista.inference.translator import Translator
    from tests.evaluation.standins import Model, Processor, tone

    busy, answer = threading.Lock(), Translator.answer

    def alone(self, pieces, request):
        assert busy.acquire(blocking=False), "two at once"
        try:
            time.sleep(0.05)
            return answer(self, pieces, request)
        finally:
            busy.release()

    monkeypatch.setattr(speech, "is_installed", lambda: False)  # loud is speech
    monkeypatch.setattr(Translator, "answer", alone)
    monkeypatch.setattr(AistaProcessor, "_translator", Translator(Model(), Processor()))

    def said(_):
        processor = AistaProcessor(SimpleNamespace(speech_chunk_size=1.0, target_language="zh"))
        parts = [processor.process_chunk(tone(1.0)) for _ in range(3)]
        return "".join(part.new_string for part in [*parts, processor.end_of_stream()])

    with ThreadPoolExecutor(2) as clients:
        assert list(clients.map(said, range(2))) == ["中w9"] * 2


def test_streams_are_forgotten_when_cleared():
    from aista.inference.simulstream import AistaProcessor

    processor = AistaProcessor(SimpleNamespace(speech_chunk_size=1.0))
    AistaProcessor.load_model(processor.config)
    processor.set_source_language("en")
    processor.set_target_language("zh")
    assert processor.process_chunk(np.zeros(16_000)).new_string == ""
    first = processor._stream
    processor.clear()
    assert processor.end_of_stream().strings_to_json() == '{"new": "", "deleted": ""}'
    assert processor._stream is not first and processor.tokens_to_string(["a", " b"]) == "a b"
