"""Every system at tiny random size through its real class: single = batch, long is cut, what it is told."""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aista.audio.files import write_audio
from aista.baselines import base as reported
from aista.baselines import baseline, names
from aista.baselines.base import worded
from aista.checkpoints import salmonn
from aista.errors import AudioError, CheckpointError, ConfigError, ModelInputError
from aista.inference.translating import Answer, GenerationSettings, Request
from aista.model.speech_lm import AistaForConditionalGeneration
from tests import tiny
from tests.baselines import tiny_systems

ZH, JA, EN = Request("st", "en", "zh"), Request("st", "en", "ja"), Request("asr", "en", "en")
SHORT = {"max_new_tokens": 5, "batch_size": 3}
QFORMER = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}


def noise(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [(0.2 * rng.standard_normal(length)).astype(np.float32) for length in lengths]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of all systems."""
    home = tmp_path_factory.mktemp("systems")
    tiny_systems.whisper(home / "asr")
    tiny.language_model(home / "lm")
    tiny_systems.qwen2_audio(home / "qwen2_audio")
    tiny_systems.glm_asr(home / "glm_asr")
    tiny.whisper(home / "encoder")
    tiny.language_model(home / "llama", kind="llama")
    model = AistaForConditionalGeneration.from_bases(
        str(home / "encoder"), str(home / "llama"), qformer=QFORMER, template="vicuna", speech_tokens="padded"
    )
    with torch.no_grad():
        model.trainable_state_dict()["window_qformer.projection.weight"].mul_(100.0)
    salmonn.export(model, home / "salmonn.pth")
    return home


def system(home: Path, name: str, **generation):
    search = {"generation": {**SHORT, **generation}, "device": "cpu"}
    if name == "cascade":
        return baseline(name, asr=str(home / "asr"), llm=str(home / "lm"), **search)
    if name == "salmonn":
        bases = {"whisper": str(home / "encoder"), "llm": str(home / "llama"), "qformer_heads": 2}
        return baseline(name, checkpoint=str(home / "salmonn.pth"), **bases, **search)
    kind = "qwen2_audio" if name == "qwen2_audio" else "speech_llm"
    return baseline(kind, model=str(home / name), **search)


HERE = ("cascade", "salmonn", "qwen2_audio", "glm_asr")


def test_every_system_that_runs_in_this_process_is_tested_here():
    assert set(names()) == {*HERE, "speech_llm", "qwen_audio"} - {"glm_asr"}


@pytest.mark.parametrize("name", HERE)
def test_a_system_answers_alike_alone_and_in_a_batch_and_hears_all_of_a_long_clip(home, name, tmp_path):
    found = system(home, name)
    pieces = noise(8_000, 16_000, 30_000)
    for request in (ZH, EN):
        together = found.answer(pieces, request)
        assert together == [found.answer([piece], request)[0] for piece in pieces]
        assert all(result.text and result.error is None for result in together)
    long = noise(16_000 * 5)[0]
    heard = found.translate(long, target="zh")
    assert heard.segments[-1].end_seconds == 5.0 and len(heard.segments) >= 3
    assert max(row.end_seconds - row.start_seconds for row in heard.segments) <= found.longest_seconds <= 2.04
    write_audio(tmp_path / "good.wav", long[:16_000])
    (tmp_path / "bad.wav").write_text("no sound at all")
    results = list(found.stream([tmp_path / "bad.wav", tmp_path / "good.wav", tmp_path / "none.wav"], "zh"))
    assert [isinstance(row, AudioError) for row in results] == [True, False, True]
    assert found.card["system"] in names() and len(
        str(found.card["prompts" if "prompts" in found.card else "prompt"])
    )


def test_what_is_heard_changes_the_answer(home):
    loud, hush = noise(24_000)[0], np.zeros(24_000, np.float32)
    for name in ("qwen2_audio", "cascade"):
        found = system(home, name, max_new_tokens=8)
        assert found.answer([loud], ZH)[0].text != found.answer([hush], ZH)[0].text, name


def test_salmonn_is_searched_and_addressed_as_salmonn(home):
    found = baseline(
        "salmonn", checkpoint=str(home / "salmonn.pth"), whisper=str(home / "encoder"),
        llm=str(home / "llama"), qformer_heads=2, device="cpu",
    )  # fmt: skip
    assert found.generation.num_beams == 4 and found.generation.max_new_tokens == 200
    config = found.model.config
    assert (config.speech_tokens, config.template) == ("padded", "vicuna")
    found.model.save_pretrained(home / "imported")
    found.processor.save_pretrained(home / "imported")
    again = baseline("salmonn", checkpoint=str(home / "imported"), device="cpu", generation=SHORT)
    pieces = noise(9_000)
    assert again.answer(pieces, ZH) == system(home, "salmonn").answer(pieces, ZH)
    assert worded(found.card["prompts"], JA) == "Listen to the speech and translate it into Japanese."
    bases = {"whisper": str(home / "encoder"), "llm": str(home / "llama")}
    with pytest.raises(CheckpointError, match="without BEATs"):
        baseline("salmonn", checkpoint=str(home / "salmonn.pth"), beats="beats.pt", **bases)


def test_qwen2_audio_gets_the_flat_prompt_with_its_sound_inside(home):
    found = system(home, "qwen2_audio")
    batcher = found.speech_llm.batcher
    batch = batcher.translation(noise(8_000, 16_000), [worded(found.prompts, ZH)] * 2)
    text = batcher.tokenizer.decode(batch.input_ids[1])
    tokens = text.count(tiny_systems.AUDIO)
    assert tokens == 25 and batch.sound["input_features"].shape == (2, 16, 200)
    ending = "<|audio_eos|>Detect the language and translate the speech into Mandarin: <|en|>"
    assert text == "<|audio_bos|>" + tokens * tiny_systems.AUDIO + ending
    assert not batch.attention_mask[0, 0] and batch.attention_mask[:, -1].all()  # padded at the left


def test_what_is_not_qwen2_audio_and_what_is_not_whole_is_refused(home, tmp_path):
    with pytest.raises(ConfigError, match="no qwen2_audio"):
        baseline("qwen2_audio", model=str(home / "glm_asr"))
    with pytest.raises(ConfigError, match="no speech LLM"):
        baseline("speech_llm", model=str(home / "lm"))
    half = shutil.copytree(home / "asr", tmp_path / "half")
    weights = load_file(half / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if ".decoder." not in name}
    save_file(kept, half / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="Whisper with decoder are missing"):
        baseline("cascade", asr=str(half), llm=str(home / "lm"))
    with pytest.raises(CheckpointError):
        baseline("cascade", asr=str(home / "asr"), llm=str(tmp_path / "nowhere"))


def test_an_interrupted_download_of_whisper_is_refused(home, tmp_path):
    empty = tmp_path / "whisper"
    empty.mkdir()
    shutil.copy(home / "asr" / "config.json", empty)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        baseline("cascade", asr=str(empty), llm=str(home / "lm"))


def test_a_form_with_another_field_is_refused(home):
    for form in ("<s>{speech}{instruction}", "{}{audio}", "{audio"):
        with pytest.raises(ConfigError, match="field of its own") as told:
            baseline("speech_llm", model=str(home / "qwen2_audio"), form=form)
        assert "{audio} and {instruction}" in str(told.value)


def test_a_form_that_leaves_the_sound_out_is_refused(home):
    class Deaf:
        def __call__(self, **_):
            return {"input_ids": torch.zeros(1, 3), "attention_mask": torch.ones(1, 3)}

    found = system(home, "qwen2_audio")
    found.speech_llm.batcher.processor = type("Deaf", (Deaf,), {"audio_token": tiny_systems.AUDIO})()
    with pytest.raises(ModelInputError, match="left the sound out"):
        found.answer(noise(8_000), ZH)


def test_the_cascade_translates_what_it_wrote_down(home):
    found = system(home, "cascade")
    pieces = noise(8_000, 16_000)
    written = [result.text for result in found.answer(pieces, EN)]
    assert found.answer(pieces, ZH) == found.answer_texts(written, ZH)
    assert found.answer_texts(["", "a"], ZH)[0].text == ""
    chat = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    found.tokenizer.chat_template, found.template = chat, "chat"
    [ids], _ = found._prompts(["A bell."], JA)
    assert found.tokenizer.decode(ids).startswith("[Translate this English text into Japanese.")
    assert system(home, "salmonn").reads_text is False
    with pytest.raises(ModelInputError):
        system(home, "salmonn").answer_texts(["a"], ZH)


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_a_transcript_gives_no_control_token_to_the_cascade(home, template):
    found = system(home, "cascade")
    end = found.tokenizer.eos_token
    chat = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    found.tokenizer.chat_template, found.template = chat, template
    [ids], _ = found._prompts([f"The bell {end} rings."], JA)
    assert found.tokenizer.eos_token_id not in ids and "rings." in found.tokenizer.decode(ids)


def test_a_cascade_whose_transcript_was_cut_says_so(home, monkeypatch):
    found = system(home, "cascade")
    assert not found.answer(noise(8_000), EN)[0].finished  # random weights find no end
    found.generation = GenerationSettings(max_new_tokens=1000)
    monkeypatch.setattr(found, "_translated", lambda texts, _: [Answer("good")] * len(texts))
    assert found.answer(noise(8_000), ZH) == [Answer("good", finished=False)]
    end = found.asr_tokenizer.eos_token_id
    monkeypatch.setattr(found.whisper, "generate", lambda *_, **__: torch.tensor([[40, 41, 42, end, end]]))
    assert found.answer(noise(8_000), EN)[0].finished and found.answer(noise(8_000), ZH) == [Answer("good")]


@pytest.mark.parametrize("part", ["asr", "lm", "qwen2_audio"])
def test_a_folder_without_a_tokenizer_is_refused(home, tmp_path, part):
    shutil.copytree(home / part, tmp_path / part)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (tmp_path / part / name).unlink(missing_ok=True)
    folders = {
        name: str((tmp_path if name == part else home) / name) for name in ("asr", "lm", "qwen2_audio")
    }
    with pytest.raises(CheckpointError, match=r"no tokenizer|processor cannot be loaded"):
        if part == "qwen2_audio":
            baseline("qwen2_audio", model=folders[part], device="cpu")
        else:
            baseline("cascade", asr=folders["asr"], llm=folders["lm"], device="cpu")


def test_names_options_and_prompts_that_are_wrong_say_what_is_right(home):
    for name in ("blsp_kd", "cot_st"):
        with pytest.raises(ConfigError, match="reported numbers only"):
            baseline(name)
    with pytest.raises(ConfigError, match="nothing is known"):
        baseline("nobody")
    with pytest.raises(ConfigError, match="does not take these options"):
        baseline("cascade", whisper="x")
    for dtype in ("bf16", "auto"):
        with pytest.raises(ConfigError, match="Unknown dtype"):
            baseline("cascade", asr="nowhere", llm="nowhere", dtype=dtype)
    with pytest.raises(ConfigError, match="Which speech LLM"):
        baseline("speech_llm")
    with pytest.raises(ConfigError, match="no placeholder"):
        baseline("speech_llm", model=str(home / "asr"))
    with pytest.raises(ConfigError, match="defines System"):
        baseline("tests.tiny")
    with pytest.raises(ConfigError, match="beams"):
        system(home, "cascade", beams=3)
    with pytest.raises(ConfigError, match="filled in"):
        worded({"st": "x"}, ZH, "into {tongue}")
    with pytest.raises(ConfigError, match="trained for"):
        system(home, "cascade").check(Request("aac", "en", "en"))


def test_the_guide_names_options_that_exist():
    guide = Path(__file__).parents[2] / "docs/guides/baselines.md"
    text = guide.read_text(encoding="utf-8") if guide.is_file() else pytest.skip("needs a checkout")
    commands = re.findall(r"^aista evaluate --baseline (\w+)(.*?)--output", text, re.S | re.M)
    assert {name for name, _ in commands} >= {"cascade", "salmonn", "qwen_audio"}
    for name, rest in commands:
        options = re.findall(r"--baseline-option (\w+)=", rest)
        module = importlib.import_module(f"aista.baselines.{name}")
        assert set(options) <= set(inspect.signature(module.System.options or module.System).parameters), name
    for row in reported.REPORTED[:4]:
        assert f"{row.bleu['en-zh']} / {row.bleu['en-ja']}" in text


def test_a_third_party_system_is_found_by_its_dotted_name():
    assert baseline("tests.baselines.third_party").translate(noise(16_000)[0], "zh").text == "16000"


def test_reported_rows_are_the_papers():
    rows = {row.system: row.bleu for row in reported.REPORTED}
    assert rows["salmonn"] == {"en-zh": 33.1, "en-ja": 22.7} and rows["qwen2_ai_sta"]["en-ja"] == 31.4
    runnable = {row.system for row in reported.REPORTED if row.runnable}
    assert {"salmonn", "qwen_audio", "qwen2_audio"} <= runnable and "blsp_kd" not in runnable
    assert all(row.source for row in reported.REPORTED)
