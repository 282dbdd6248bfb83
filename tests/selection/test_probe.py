"""Probing any speech LLM: against a plain loop, with bad clips, interrupted, refused, and as a page."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ot
import pytest
import torch
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor
from typer.testing import CliRunner

from aista.audio.files import load_audio
from aista.config import ProbeSettings
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.errors import AistaError, ConfigError, ManifestError, ModelInputError
from aista.experiments import probe_page
from aista.experiments.probe_page import write_pages
from aista.selection import hidden_states
from aista.selection.probe import PLANS, probe
from aista.speech_llm import SpeechLM
from aista.training.stages import fresh_model
from tests import tiny
from tests.baselines import tiny_systems

OWN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nAudio 1: <|audio_bos|>"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of noise with six transcripts, and two models: Qwen2-Audio, and ours."""
    folder = tmp_path_factory.mktemp("probe")
    tiny.manifest(folder / "six.jsonl", count=6, task="asr")
    tiny_systems.qwen2_audio(folder / "qwen2_audio")
    model, processor = fresh_model(tiny.pretrain_settings(folder).model, seed=1)  # type: ignore[arg-type]
    model.save_pretrained(folder / "ours")
    processor.save_pretrained(folder / "ours")
    return folder


def settings(home: Path, output: Path, *models: str, **changes: Any) -> ProbeSettings:
    values = {"models": [str(home / name) for name in models or ("qwen2_audio",)], "batch_size": 2}
    return ProbeSettings.of({**values, "data": [str(home / "six.jsonl")], "output": str(output), **changes})


# ---- the oracle: transformers' own hidden states of one clip at a time, and POT for every pair


def clouds(home: Path, name: str) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
    """By layer, the speech tokens' states and the transcripts' (float64)."""
    model = AutoModelForMultimodalLM.from_pretrained(home / name).eval()
    processor = AutoProcessor.from_pretrained(home / name)
    placeholder = model.config.audio_token_id
    sides: tuple[list[Any], list[Any]] = ([], [])
    for i, text in enumerate(tiny.TEXTS):
        message = {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Translate."}]}
        request = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        wave = load_audio(home / f"six_{i}.wav")
        inputs = processor(text=[request], audio=[wave], sampling_rate=16_000, return_tensors="pt")
        span = (inputs["input_ids"][0] == placeholder).nonzero()[:, 0]
        first, last = int(span[0]), int(span[-1])
        letters = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        written = torch.tensor([[*inputs["input_ids"][0][:first].tolist(), *letters]])
        with torch.no_grad():
            spoken_states = model(**inputs, output_hidden_states=True).hidden_states
            written_states = model(input_ids=written, output_hidden_states=True).hidden_states
        sides[0].append([x[0, first : last + 1].double().numpy() for x in spoken_states])
        sides[1].append([x[0, first:].double().numpy() for x in written_states])
    return [
        ([clip[layer] for clip in sides[0]], [clip[layer] for clip in sides[1]])
        for layer in range(len(sides[0][0]))
    ]


def by_a_loop(speech: list[np.ndarray], text: list[np.ndarray]) -> tuple[np.ndarray, float, float]:
    distance = np.array([[ot.emd2([], [], ot.dist(x, y)) for y in text] for x in speech])
    own = np.diag(distance)
    ranks = [1 + (side < own[:, None]).sum(1) for side in (distance, distance.T)]
    return distance, float(np.mean(1 / ranks[0])), float(np.mean(1 / ranks[1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_audio", "ours"])
def test_every_layer_is_what_a_plain_loop_finds(home: Path, tmp_path: Path, name: str) -> None:
    (found,) = probe(settings(home, tmp_path / "out", name))
    wanted = clouds(home, name)
    assert [row.layer for row in found.rows] == list(range(len(wanted)))
    for row, (speech, text) in zip(found.rows, wanted, strict=True):
        distance, forth, back = by_a_loop(speech, text)
        assert row.mrr == pytest.approx(forth, abs=1e-12)
        assert row.mrr_text_to_speech == pytest.approx(back, abs=1e-12)
        assert row.mean_distance == pytest.approx(np.diag(distance).mean(), rel=1e-4)
        for side, norm in ((speech, row.norm_speech), (text, row.norm_text)):
            assert norm == pytest.approx(np.linalg.norm(np.concatenate(side), axis=1).mean(), rel=1e-4)
        assert row.chance == pytest.approx(np.mean(1 / np.arange(1, 7)))
        assert 0 < row.shuffled < 1 and row.depth == row.layer / (len(wanted) - 1)  # type: ignore[operator]
    plan = found.plans["u0"]
    cost = ot.dist(wanted[plan.layer][0][0], wanted[plan.layer][1][0])
    moved = np.zeros_like(cost)
    for i, j, mass in plan.moves:
        moved[i, j] = mass
    assert plan.value == pytest.approx((moved * cost).sum(), rel=1e-4)
    assert plan.value == pytest.approx(ot.emd2([], [], cost), rel=1e-4)
    assert "".join(plan.tokens) == tiny.TEXTS[0]


@pytest.mark.slow
def test_a_row_for_each_layer_cost_cloud_and_prompt(home: Path, tmp_path: Path) -> None:
    both = {"costs": ["cosine", "squared_euclidean"], "clouds": ["span", "sequence"]}
    given = "<|im_start|>user\\nHi <|what|>"
    chosen = settings(home, tmp_path / "out", prompts=["own", "none", given], **both)
    (found,) = probe(chosen)
    seen = [(row.prompt, row.cloud, row.cost, row.layer) for row in found.rows]
    wanted = list(product(chosen.prompts, chosen.clouds, chosen.costs, range(3)))
    assert seen == wanted
    at = dict(zip(seen, found.rows, strict=True))
    (alone,) = probe(settings(home, tmp_path / "alone"))
    for row in alone.rows:
        assert at["own", "span", "squared_euclidean", row.layer] == row
    for layer in range(3):  # without a prompt the sequence is the span
        span = at["none", "span", "cosine", layer]
        assert at["none", "sequence", "cosine", layer] == span.model_copy(update={"cloud": "sequence"})
    assert "".join(found.before["own"]) == OWN and found.before["none"] == []
    assert "".join(found.before[given]) == "<|im_start|>user\nHi <|what|>"
    assert len(found.warnings) == 1 and "<|what|> (8 pieces)" in found.warnings[0]
    rows = json.loads((tmp_path / "out/probe.json").read_text())["rows"]
    assert len(rows) == len(wanted) and {"model", "depth", "energy_top_dims_text"} <= rows[0].keys()


def test_what_stands_before_reaches_both_branches(home: Path, tmp_path: Path) -> None:
    speech_llm = SpeechLM.load(home / "qwen2_audio")
    chosen = settings(home, tmp_path / "out")
    pairs = hidden_states.SpeechDataset([Manifest(chosen.data[0])])
    ids = speech_llm.batcher.tokenizer("Hi", add_special_tokens=False)["input_ids"]
    extraction = hidden_states.Extraction(speech_llm, pairs, tmp_path / "states", "sequence", ids)
    _, batches = extraction._prepared(range(2), {})
    assert batches is not None
    for batch in batches:
        assert [row.prompt[: row.start] for row in batch.rows()] == [ids, ids]
        assert all(row.stop == len(row.prompt) for row in batch.rows())  # nothing follows
    assert extraction.run(4) == {}
    (sequence,), (span,) = (list(extraction.layers([1], cloud)) for cloud in ("sequence", "span"))
    for whole, part in zip(sequence.speech + sequence.text, span.speech + span.text, strict=True):
        np.testing.assert_array_equal(whole[2:], part)


# ---- what can go wrong


def test_a_clip_that_fails_costs_itself_only_and_is_named(home: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (home / "six.jsonl").read_text().strip().split("\n")]
    (tmp_path / "broken.wav").write_bytes(b"RIFF but no sound")
    broken = Utterance(id="broken", audio="broken.wav", text="Not heard.", task="asr", tgt_lang="en")
    sound = [Utterance(**{**row, "audio": str(home / row["audio"])}) for row in rows]
    write_manifest(tmp_path / "mixed.jsonl", [sound[0], broken, *sound[1:]])
    data = [str(tmp_path / "mixed.jsonl")]
    (found,) = probe(settings(home, tmp_path / "out", data=data))
    assert list(found.failed) == ["broken"] and "broken" in found.warnings[-1]
    (whole,) = probe(settings(home, tmp_path / "whole"))
    for row, wanted in zip(found.rows, whole.rows, strict=True):
        assert row.num_pairs == 6
        assert row.mrr == wanted.mrr and row.mean_distance == pytest.approx(wanted.mean_distance, rel=1e-5)
    write_manifest(tmp_path / "none.jsonl", [broken, broken.model_copy(update={"text": "B", "offset": 1.0})])
    with pytest.raises(ModelInputError, match="No clip can be used"):
        probe(settings(home, tmp_path / "nothing", data=[str(tmp_path / "none.jsonl")]))


def test_states_that_are_not_finite_leave_their_clip_out(home: Path, tmp_path: Path, monkeypatch) -> None:
    plain = hidden_states.states_of

    def spoilt(speech_llm: Any, batches: Any, *rest: Any) -> Any:
        speech, text = plain(speech_llm, batches, *rest)
        if len(text[0][0]) == len(tiny.TEXTS[2]):  # of the second batch
            speech[1][0][0, 0] = float("nan")
        return speech, text

    monkeypatch.setattr(hidden_states, "states_of", spoilt)
    (found,) = probe(settings(home, tmp_path / "out"))
    assert found.failed == {"u2": "states at layer 1 are not finite"} and found.rows[0].num_pairs == 5


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_gives_the_same(home: Path, tmp_path: Path, monkeypatch) -> None:
    models, prompts = ("qwen2_audio", "ours"), ["own", "none"]
    probe(settings(home, tmp_path / "whole", *models, prompts=prompts))
    calls, plain = [], hidden_states.states_of

    def counted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) in (3, 6, 11):
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(hidden_states, "states_of", counted)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            probe(settings(home, tmp_path / "parts", *models, prompts=prompts))
    probe(settings(home, tmp_path / "parts", *models, prompts=prompts))
    assert len(calls) == 15  # three batches a model and prompt, and the three that were cut off
    for name in ("probe.json", "plans.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "parts/states").exists()
    probe(settings(home, tmp_path / "parts", *models, prompts=prompts))
    assert len(calls) == 15
    with pytest.raises(ConfigError, match="other settings"):
        probe(settings(home, tmp_path / "parts", "qwen2_audio"))


@pytest.mark.slow
def test_bfloat16_is_kept_without_loss_in_half_the_space(home: Path, tmp_path: Path) -> None:
    (found,) = probe(settings(home, tmp_path / "out", dtype="bfloat16"))
    (exact,) = probe(settings(home, tmp_path / "exact"))
    assert found.dtype == "bfloat16" and exact.dtype == "float32"
    for row, wanted in zip(found.rows, exact.rows, strict=True):
        assert row.norm_text == pytest.approx(wanted.norm_text, rel=0.02)
    pairs = hidden_states.SpeechDataset([Manifest(str(home / "six.jsonl"))])
    sizes = {}
    for dtype in (torch.bfloat16, torch.float32):
        speech_llm = SpeechLM.load(home / "qwen2_audio", dtype=dtype)
        extraction = hidden_states.Extraction(speech_llm, pairs, tmp_path / str(dtype))
        extraction.run(6)
        _, batches = extraction._prepared(range(6), {})
        assert batches is not None
        speech, _ = hidden_states.states_of(speech_llm, batches, range(3))
        (layer,) = extraction.layers([2], "span")
        for kept, computed in zip(layer.speech, speech[2], strict=True):
            np.testing.assert_array_equal(kept, computed.numpy())
        sizes[dtype] = sum(
            file.stat().st_size for file in (tmp_path / str(dtype)).rglob("layer_*/*/features.bin")
        )
        told, _ = extraction.estimate(6)
        assert told == pytest.approx(sizes[dtype], rel=0.15)
    assert sizes[torch.float32] == 2 * sizes[torch.bfloat16]


def realtime(folder: Path) -> None:
    """The configuration of a class that adds sound to every position."""
    AutoConfig.for_model("voxtral_realtime").save_pretrained(folder)


@pytest.mark.parametrize(
    ("maker", "reason"),
    [
        (tiny_systems.whisper, "encoder-decoder"),
        (tiny.language_model, "no placeholder"),
        (realtime, "added to every position"),
    ],
)
def test_what_cannot_be_probed_is_refused_at_once(
    home: Path, tmp_path: Path, maker: Any, reason: str
) -> None:
    maker(tmp_path / "other")
    with pytest.raises(AistaError, match=reason):
        probe(settings(home, tmp_path / "out", "qwen2_audio", str(tmp_path / "other")))
    assert not (tmp_path / "out/states").exists()


def test_one_transcript_is_too_few_and_a_plan_must_be_of_a_pair(home: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (home / "six.jsonl").read_text().strip().split("\n")]
    same = [Utterance(**{**row, "audio": str(home / row["audio"]), "text": "Hello."}) for row in rows]
    write_manifest(tmp_path / "same.jsonl", same)
    with pytest.raises(ManifestError, match="at least two different transcripts"):
        probe(settings(home, tmp_path / "out", data=[str(tmp_path / "same.jsonl")]))
    with pytest.raises(ManifestError, match="nobody"):
        probe(settings(home, tmp_path / "out", plans=["u1", "nobody"]))
    with pytest.raises(ConfigError, match="prompts: each must be named once"):
        settings(home, tmp_path / "out", prompts=["own", "own"])
    (found,) = probe(settings(home, tmp_path / "two", plans=["u4"], num_pairs=2))
    assert list(found.plans) == ["u4"] and found.rows[0].num_pairs == 2


def test_clips_of_two_manifests_may_have_one_id(home: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (home / "six.jsonl").read_text().strip().split("\n")]
    rows = [Utterance(**{**row, "audio": str(home / row["audio"]), "id": "0"}) for row in rows[:2]]
    files = [tmp_path / name for name in ("one.jsonl", "two.jsonl")]
    for row, file in zip(rows, files, strict=True):
        write_manifest(file, [row])
    (found,) = probe(settings(home, tmp_path / "out", data=[str(file) for file in files], plans=["0"]))
    shown = json.loads((tmp_path / "out" / PLANS).read_text())
    assert [clip["text"] for clip in shown] == [row.text for row in rows]
    assert [clip["id"] for clip in shown] == list(found.plans) == ["0", "0 (no. 2 of this id)"]
    spelt = ["".join(plan.tokens) for plan in found.plans.values()]
    assert spelt == [row.text for row in rows]


# ---- the page, and the command


def test_the_page_plays_the_span_that_was_heard(home: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (home / "six.jsonl").read_text().strip().split("\n")]
    sound = [Utterance(**{**row, "audio": str(home / row["audio"])}) for row in rows]
    cut = sound[5].model_copy(update={"id": "cut", "text": "A part.", "offset": 0.5, "duration": 0.25})
    write_manifest(tmp_path / "spans.jsonl", [*sound[:5], cut])
    probe(settings(home, tmp_path / "out", data=[str(tmp_path / "spans.jsonl")], plans=["cut"]))
    (shown,) = json.loads((tmp_path / "out" / PLANS).read_text())
    assert len(probe_page._clip(shown).samples) == 4_000


@pytest.mark.slow
def test_the_page_needs_nothing_and_shows_all(home: Path, tmp_path: Path) -> None:
    costs = ["squared_euclidean", "cosine"]
    probe(settings(home, tmp_path / "out", "qwen2_audio", "ours", costs=costs, plans=["u1"]))
    write_pages(tmp_path / "out")
    text = (tmp_path / "out/probe.html").read_text()
    fetched = re.findall(r'(?:src|href)="(?!#|data:|https://arxiv.org)[^"]*"', text)
    assert not fetched and "@import" not in text
    for wanted in ("qwen2_audio", "ours", "chance of 6 pairs", "cosine cost, the span", "data:audio/flac",
                   tiny.TEXTS[1], "&lt;|im_start|&gt;", "prefers-color-scheme: dark"):  # fmt: skip
        assert wanted in text, wanted
    assert text.count('class="cursor"') == 4  # one pair, two models, wide and narrow
    assert (tmp_path / "out/probe.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out/probe.svg").read_text().startswith("<svg")
    made = (tmp_path / "out/probe.html").stat().st_mtime_ns
    write_pages(tmp_path / "out")
    assert (tmp_path / "out/probe.html").stat().st_mtime_ns == made


def test_a_prompt_with_brackets_is_printed_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aista.cli.probe import app
    from aista.selection import probe as module

    row = SimpleNamespace(
        prompt="[audio] Hear. [/INST]", cloud="span", cost="cosine", layer=0, mrr=1.0, mrr_text_to_speech=1.0,
        shuffled=0.5, mean_distance=1.0, norm_speech=1.0, norm_text=1.0, massive_speech=0.0,
        massive_text=0.0, num_pairs=2, chance=0.75, length_only=0.5,
    )  # fmt: skip
    found = [SimpleNamespace(model="m[1]", rows=[row], warnings=["not [/so] sure"])]
    monkeypatch.setattr(module, "probe", lambda settings: found)
    monkeypatch.setattr(probe_page, "write_pages", lambda output: None)
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ["m", "--data", "d.jsonl", "--output", str(tmp_path)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "m[1]: cosine, span, prompt [audio] Hear. [/INST] (speech / text)" in done.output
    assert "not [/so] sure" in done.output


@pytest.mark.slow
def test_real_speech_from_the_command_line(shared_dir: Path, tmp_path: Path) -> None:
    """Five voices through a Qwen2-Audio that hears 30 s, with its own processor."""
    from aista.cli.probe import app

    spoken = {
        "jfk.flac": "And so, my fellow Americans, ask not what your country can do for you.",
        "2412-153948-0000.flac": "If the reader will excuse me I will say nothing of my antecedents.",
        "LJ002-0020.wav": "Eight the press yard.",
        "LJ002-0035.wav": "In eighteen thirteen.",
        "common_voice_en_651325.mp3": "Something short.",
    }
    rows = [
        Utterance(id=name, audio=str(shared_dir / "audio" / name), text=text, task="asr", tgt_lang="en")
        for name, text in spoken.items()
    ]
    write_manifest(tmp_path / "real.jsonl", rows)
    tiny_systems.qwen2_audio(tmp_path / "model", seconds=30)
    output = tmp_path / "out"
    arguments = [str(tmp_path / "model"), "--data", str(tmp_path / "real.jsonl"), "--output", str(output)]
    more = ["--cost", "squared_euclidean", "--cost", "cosine", "--cloud", "span", "--cloud", "sequence"]
    done = CliRunner().invoke(app, [*arguments, *more], catch_exceptions=False)
    assert done.exit_code == 0 and "probe.html" in done.output
    values = json.loads((output / "probe.json").read_text())
    assert len(values["rows"]) == 3 * 2 * 2 and all(row["num_pairs"] == 5 for row in values["rows"])
    page = (output / "probe.html").read_text()
    assert page.count("data:audio/flac") == 3
    assert ">Americans,<" in page and ">antecedents.<" in page  # a row a word, where there are many letters
