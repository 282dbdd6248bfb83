"""The numbers recorded from SALMONN's own code, replayed through our public doors.

Tolerances: 2e-5 relative to max(1, scale) on the audio side, 2e-4 on hidden states, 1e-5 on losses.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aista.checkpoints import salmonn
from aista.config import TrainSettings
from aista.model import AistaForConditionalGeneration, AistaProcessor, SpeechInputs
from aista.model.loading import Options
from aista.speech_llm import Batch, Batcher, SpeechLM
from aista.text.prompts import text_ids
from aista.training.optimisation import learning_rate
from tests.model.speech_states import speech_states, tokens_of

CASES = ("single_1p73s", "short_0p4s", "batch_1p0_2p35_3p9s")


@pytest.fixture(scope="module")
def kit(shared_dir) -> Path:
    return shared_dir / "parity/kit"


@pytest.fixture(scope="module")
def summary(kit) -> dict:
    return json.loads((kit / "summary.json").read_text())


def load(kit: Path, **options) -> AistaForConditionalGeneration:
    bases = {"whisper": kit / "tiny_whisper", "beats": kit / "tiny_beats.pt", "llm": kit / "tiny_llama"}
    paths = {name: str(path) for name, path in bases.items()}
    frozen = salmonn.FrozenModels(**paths)
    return salmonn.load(kit / "tiny_salmonn.pth", frozen, options=Options("float32"), **options)


@pytest.fixture(scope="module")
def model(kit):
    return load(kit, parity=True)


@pytest.fixture(scope="module")
def processor(model):
    return AistaProcessor.from_config(model.config)


def recorded(kit: Path, case: str) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    arrays = np.load(kit / f"case_{case}.npz")
    names = sorted(name for name in arrays.files if name.startswith("pcm"))
    return {name: arrays[name] for name in arrays.files}, [arrays[name] / 32768.0 for name in names]


def close(found: torch.Tensor | np.ndarray, wanted: np.ndarray, tolerance: float = 2e-5) -> None:
    found = np.asarray(found)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance * max(1.0, np.abs(wanted).max())


def prompts(recording: dict) -> list[str]:
    """The instructions inside SALMONN's whole prompts."""
    fill = recording.get("Q") or [""] * len(recording["prompts"])
    whole = recording.get("prompts_chosen") or recording["prompts"]
    inner = [prompt.partition("</Speech> ")[2].removesuffix("\nASSISTANT:") for prompt in whole]
    return [text.replace("{}", question) for text, question in zip(inner, fill, strict=True)]


def encoded(model: AistaForConditionalGeneration, batch: Batch) -> Batch:
    """The same batch with the encoders' work done once."""
    audio = SpeechInputs(**batch.sound)
    sound = {"speech_features": model.encode_audio(audio), "num_samples": audio.num_samples}
    return replace(batch, sound=sound)


def run(model: AistaForConditionalGeneration, batch: Batch, **options):
    return model(batch.input_ids, batch.attention_mask, labels=batch.labels, **batch.sound, **options)


@pytest.mark.parametrize("case", CASES)
def test_from_audio_to_embeddings(kit, model, processor, case):
    """Log-mel, filterbank, masks, Whisper, BEATs, windows, every Q-Former state, projected embeddings."""
    wanted, waves = recorded(kit, case)
    batch = processor.audio_inputs(waves)
    close(batch.input_features, wanted["spectrogram"])
    close(batch.fbank, wanted["beats_fbank_normed"])
    assert np.array_equal(batch.fbank_mask, ~wanted["mask_fbank"])
    states = speech_states(model, batch)
    close(states["speech"], wanted["whisper_features"])
    assert np.array_equal(states["audio"].mask, ~wanted["mask_tokens"])
    close(states["audio"].hidden_states[1], wanted["beats_layer0_out"])
    close(states["audio"].features, wanted["beats_features"])
    if "qformer_in_windows" in wanted:
        close(states["windows"], wanted["qformer_in_windows"])
    for layer, state in enumerate(states["query_states"]):
        close(state, wanted[f"qformer_hidden{layer}"])
    close(states["embeddings"], wanted["embeds"])
    assert states["mask"].sum(1).tolist() == wanted["atts"].sum(1).tolist() == [88] * len(waves)


def make_audio(n: int, seed: int) -> np.ndarray:
    """The kit's integer recipe for audio that is too long to be stored (see its README)."""
    base = np.random.RandomState(seed).randint(-6000, 6001, size=n).astype(np.int64)
    total = np.cumsum(np.concatenate([np.zeros(5, np.int64), base]))
    wave = (total[5:] - total[:-5]) // 5 * (200 + (np.arange(n) // 400 * 37) % 801) // 1000
    wave[n // 3 : n // 3 + n // 20] = 0
    wave[-(n // 15) :] = 0
    return np.clip(wave, -32768, 32767).astype(np.int16)


@pytest.mark.slow
def test_half_a_minute(kit, model, processor, summary):
    """31.3 s, of which SALMONN keeps 30; the recording keeps every 17th or 61st vector."""
    wanted, _ = recorded(kit, "long_31p3s")
    recipe = summary["cases"]["long_31p3s"]["audio_recipe"][0]
    wave = make_audio(recipe["n"], recipe["seed"])[:480_000] / 32768.0
    batch = processor.audio_inputs([wave])
    states = speech_states(model, batch)
    close(batch.fbank[:, ::61], wanted["beats_fbank_normed"])
    close(states["speech"][:, ::17], wanted["whisper_features"])
    close(states["audio"].features[:, ::17], wanted["beats_features"])
    close(states["embeddings"], wanted["embeds"])


def test_token_ids(processor, summary):
    wanted, tokenizer = summary["tokenizer"], processor.tokenizer
    assert text_ids(tokenizer, "USER: <Speech>") == wanted["before_ids"]
    after = "</Speech> write what the speaker says\nASSISTANT:"
    assert text_ids(tokenizer, after) == wanted["after_ids_asr0"]


@pytest.mark.parametrize(("name", "case"), [("llm_single_prompt", CASES[0]), ("llm_multi_prompt", CASES[2])])
def test_every_layer_the_loss_and_the_accuracy(kit, model, processor, summary, name, case):
    wanted, recording = np.load(kit / f"{name}.npz"), summary[name]
    batch = Batcher(processor, model.config).training(
        recorded(kit, case)[1],
        prompts(recording),
        recording["text"],
        padding_side="between",
        max_target_tokens=recording["max_txt_len"],
    )
    assert np.array_equal(batch.labels, wanted["labels"])
    assert np.array_equal(batch.attention_mask, wanted["attention_mask"])
    with torch.no_grad():
        output = run(model, batch, output_hidden_states=True)
    assert len(output.hidden_states) == 5
    for layer, states in enumerate(output.hidden_states):
        close(states[-1], wanted[f"hidden{layer}_lastrow"], 2e-4)
    tail = wanted["logits_tail"]
    close(output.logits[:, -tail.shape[1] :], tail, 2e-4)
    assert output.loss.item() == pytest.approx(recording["loss"], abs=1e-5)
    asked = batch.labels[:, 1:] != -100
    right = (output.logits[:, :-1].argmax(-1) == batch.labels[:, 1:]) & asked
    assert (int(right.sum()), int(asked.sum())) == (recording["correct"], recording["total"])


@pytest.mark.parametrize("name", ["greedy_single", "beam4_single"])
def test_generated_ids(kit, model, processor, summary, name):
    recording = summary["generate"][name]
    batch = Batcher(processor, model.config).translation(recorded(kit, CASES[0])[1], prompts(recording))
    beams = recording["kwargs"]["num_beams"]
    ids = SpeechLM(model).generate(batch, max_new_tokens=12, num_beams=beams)
    assert ids.tolist() == [row[1:] for row in recording["ids"]]  # 4.28 returned BOS first


def test_a_batch_of_unequal_prompts(kit, model, processor, summary):
    """SALMONN pads on the right and predicts a shorter prompt's first token from a pad: met, if asked for.

    Padded on the left, as we do, every row is answered as alone.
    """
    recording = summary["generate"]["beam4_batch3"]
    _, waves = recorded(kit, CASES[2])
    texts, batcher, speech_llm = prompts(recording), Batcher(processor, model.config), SpeechLM(model)
    options = {"max_new_tokens": 12, "num_beams": 4}
    batch = encoded(model, batcher.translation(waves, texts, padding_side="right"))
    assert speech_llm.generate(batch, **options).tolist() == [row[1:] for row in recording["ids"]]
    features = [rows.numpy() for rows in batch.sound["speech_features"]]
    left = speech_llm.generate(batcher.translation(features, texts), **options)
    assert left[1].tolist() == recording["ids"][1][1:]  # the longest prompt has no pads
    last = batcher.translation(features[2:], texts[2:])
    assert left[2].tolist() == speech_llm.generate(last, **options)[0].tolist()


def test_four_steps_of_training(kit, summary):
    """Losses, gradient norms and weights of SALMONN's optimiser over four steps."""
    model, recording = load(kit, parity=True), summary["train4"]
    processor = AistaProcessor.from_config(model.config)
    texts = summary["llm_multi_prompt"]
    batch = Batcher(processor, model.config).training(
        recorded(kit, CASES[2])[1],
        prompts(texts),
        texts["text"],
        padding_side="between",
        max_target_tokens=40,
    )
    batch = encoded(model, batch)
    names = {
        salmonn.salmonn_name(name): dict(model.named_parameters())[name] for name in model.trained_names()
    }
    no_decay = ("bias", "ln", "bn")
    plain = [n for n, p in names.items() if p.ndim < 2 or any(part in n for part in no_decay)]
    groups = [
        {
            "params": [p for n, p in names.items() if n not in plain],
            "weight_decay": recording["weight_decay"],
        },
        {"params": [names[n] for n in plain], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=tuple(recording["betas"]), eps=recording["eps"])
    for step, (rate, loss) in enumerate(zip(recording["lrs"], recording["losses"], strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = rate
        output = run(model, batch)
        assert output.loss.item() == pytest.approx(loss, abs=1e-5)
        output.loss.backward()
        if step == 0:
            for name, norm in recording["grad_norms_step0"].items():
                assert names[name].grad.norm().item() == pytest.approx(norm, rel=2e-4, abs=1e-6), name
        optimizer.step()
        optimizer.zero_grad()
    for name, tensor in load_file(kit / "train4_after.safetensors").items():
        torch.testing.assert_close(names[name].detach(), tensor, atol=2e-6, rtol=0)


def test_without_parity_the_weights_are_the_same_and_rows_stand_alone(kit):
    """The default keeps our promises: features and positions do not depend on the rest of the batch."""
    model = load(kit)
    processor = AistaProcessor.from_config(model.config)
    _, waves = recorded(kit, CASES[2])
    with torch.no_grad():
        together, _ = tokens_of(model, processor.audio_inputs(waves[:2]))
        alone, _ = tokens_of(model, processor.audio_inputs(waves[:1]))
        exact, _ = tokens_of(load(kit, parity=True), processor.audio_inputs(waves[:1]))
    torch.testing.assert_close(together[:1], alone, atol=2e-5, rtol=0)
    torch.testing.assert_close(exact, alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "steps", "warmup", "epoch"),
    [
        ("pretrain_80000_one_epoch__warmup9000", 80_000, 9_000, 80_000),
        ("pretrain_10000x8__warmup9000", 80_000, 9_000, 10_000),
        ("pretrain_3000x27__warmup9000__SHOWS_RESTARTS", 81_000, 9_000, 3_000),
        ("joint_3000x30__warmup3000__SALMONN_default_config", 90_000, 3_000, 3_000),
    ],
)
def test_learning_rates(kit, name, steps, warmup, epoch):
    """With ``salmonn_epoch_steps`` ours is SALMONN's, its restarts of the warm-up included."""
    settings = TrainSettings(max_steps=steps, warmup_steps=warmup, salmonn_epoch_steps=epoch)
    for step, wanted in json.loads((kit / "lr_schedule.json").read_text())[name].items():
        assert learning_rate(int(step), settings) == pytest.approx(wanted, rel=1e-9), step
