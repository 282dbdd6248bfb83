"""The speech LLM: what it promises about batches, hidden states, training and generation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from aista.errors import ConfigError, ModelInputError
from aista.model import AistaForConditionalGeneration, SpeechInputs
from aista.speech_llm import Batch, Batcher, SpeechLM
from tests.model.conftest import BACKBONES, QFORMER, noise, run
from tests.model.speech_states import speech_states, tokens_of

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
WAVES = noise(0.4, 1.3, 1.9)
TARGETS = ["Ja.", "Die Glocke.", "Es ist spät."]


def prompts_of(processor, waves, instructions, **options) -> Batch:
    batcher = Batcher(processor, processor.config)
    return batcher.translation(waves, instructions, **options)


def training_batch(processor, **options) -> Batch:
    batcher = Batcher(processor, processor.config)
    return batcher.training(WAVES, ["Translate."] * 3, TARGETS, **options)


def text_batch(processor, batch: Batch, texts: list[str]) -> Batch:
    return Batcher(processor, processor.config).written(batch, texts)


def generated(model, batch: Batch, **options):
    return SpeechLM(model).generate(batch, **options)


@pytest.mark.slow
@pytest.mark.parametrize("speech_tokens", ["voiced", "padded"])
def test_a_batch_gives_what_its_rows_give_alone(bases, speech_tokens):
    """Eight utterances of 0.4 to 29 s; float32, 1e-4."""
    model, processor = bases.model(positions=1500, speech_tokens=speech_tokens)
    waves = noise(0.4, 29.0, 1.0, 12.3, 3.456, 0.7, 20.1, 6.0)
    texts = ["Translate." * (1 + i % 3) for i in range(8)]
    targets = ["a" * (1 + 2 * i) for i in range(8)]
    with torch.no_grad():
        batcher = Batcher(processor, model.config)
        batch = batcher.training(waves, texts, targets)
        together = run(model, batch).logits
        for row in range(8):
            one = batcher.training(waves[row : row + 1], texts[row : row + 1], targets[row : row + 1])
            alone = run(model, one).logits[0]
            real = together[row, batch.attention_mask[row].bool()]
            torch.testing.assert_close(real, alone, atol=1e-4, rtol=0)
    tokens = (batch.input_ids == model.config.audio_token_id).sum(1).tolist()
    assert tokens == ([88] * 8 if speech_tokens == "padded" else [-(-len(w) // 5440) for w in waves])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_captured_states_are_transformers_own(bases, backbone):
    """Numbered as output_hidden_states, for every family, with gradient."""
    model, processor = bases.model(backbone, beats=False)
    batch = training_batch(processor)
    output = SpeechLM(model).predict(batch, range(4))
    reference = run(model, batch, output_hidden_states=True).hidden_states
    assert sorted(output.states) == [0, 1, 2, 3]
    real = batch.attention_mask.bool()
    for layer, states in output.states.items():
        torch.testing.assert_close(states[real], reference[layer][real])
        assert states.requires_grad
    with pytest.raises(ModelInputError, match="no such layer"):
        SpeechLM(model).predict(batch, [4])


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("layers", [[0], [1, 2], [0, 3]])
def test_text_states_are_those_of_the_whole_backbone(bases, backbone, layers):
    """Shortened and without dropout: the same hidden states, and the backbone is whole again after it."""
    model, processor = bases.model(backbone, beats=False)
    text = text_batch(processor, training_batch(processor), ["Yes.", "The bell.", "It is late."])
    speech_llm = SpeechLM(model)
    model.train()
    states = speech_llm.text_states(text, layers)
    assert model.backbone.training and len(speech_llm.decoder.blocks) == 3
    model.eval()
    whole = model(text.input_ids, text.attention_mask, output_hidden_states=True).hidden_states
    real = text.attention_mask.bool()
    for layer in layers:
        torch.testing.assert_close(states[layer][real], whole[layer][real], atol=1e-5, rtol=1e-5)
        assert not states[layer].requires_grad


def test_a_teacher_reads_without_dropout_and_without_lora_where_that_is_asked(bases):
    model, processor = bases.model(beats=False)
    text = text_batch(processor, training_batch(processor), ["Yes.", "The bell.", "It is late."])
    speech_llm, real = SpeechLM(model.train()), text.attention_mask.bool()
    adapted = speech_llm.text_outputs(text).logits
    frozen = speech_llm.text_outputs(text, lora=False).logits
    plain = AutoModelForCausalLM.from_pretrained(bases.path("qwen2"), dtype="float32").eval()
    torch.testing.assert_close(frozen[real], plain(text.input_ids).logits[real])
    assert (adapted - frozen)[real].abs().max() > 1e-3
    assert torch.equal(speech_llm.text_outputs(text).logits, adapted)  # LoRA is on again


def test_what_follows_the_transcript_does_not_matter(pair):
    """Decision 3: prefix and transcript are enough."""
    model, processor = pair
    texts = ["Yes.", "The bell.", "It is late."]
    branch = text_batch(processor, training_batch(processor), texts)
    whole = Batcher(processor, model.config).training(texts, ["Translate."] * 3, TARGETS)
    states = SpeechLM(model).text_states(branch, [0, 1, 2])
    full = model(whole.input_ids, whole.attention_mask, output_hidden_states=True).hidden_states
    for row, inside in enumerate(branch.span):
        place = inside.nonzero()[:, 0]
        for layer in states:
            torch.testing.assert_close(
                states[layer][row, place], full[layer][row, place], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("beats", [True, False])
@pytest.mark.parametrize("speech_tokens", ["voiced", "padded"])
def test_cached_features_change_nothing(bases, beats, speech_tokens):
    model, processor = bases.model(beats=beats, speech_tokens=speech_tokens)
    fresh = training_batch(processor)
    features = [model.encode_audio(processor.audio_inputs([wave]))[0].numpy() for wave in WAVES]
    assert [len(f) for f in features] == [model.config.frames_for(len(wave)) for wave in WAVES]
    cached = Batcher(processor, model.config).training(features, ["Translate."] * 3, TARGETS)
    assert "speech_features" in cached.sound and "input_features" not in cached.sound
    torch.testing.assert_close(run(model, cached).logits, run(model, fresh).logits, atol=2e-5, rtol=0)


def test_only_the_trained_part_learns(pair, bases):
    model, processor = bases.model()
    assert set(model.trained_names()) == {n for n, p in model.named_parameters() if p.requires_grad}
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    run(model, training_batch(processor)).loss.backward()
    untouched = {name for name, p in model.named_parameters() if p.requires_grad and not p.grad.any()}
    # One query per window: self-attention over one element does not depend on its queries and keys.
    assert all(".attention.attention.query" in n or ".attention.attention.key" in n for n in untouched)
    assert not any("crossattention" in name for name in untouched)
    optimizer.step()
    assert all(torch.equal(p, dict(model.named_parameters())[n]) for n, p in frozen.items())


def test_frozen_encoders_stay_in_eval_mode(pair):
    model, _ = pair
    model.train()
    assert model.window_qformer.training and model.backbone.training
    assert not model.speech_encoder.training and not model.audio_encoder.training
    model.eval()


def test_the_loss_is_a_sum_over_whatever_it_is_divided_by(pair):
    model, processor = pair
    batch = training_batch(processor)
    count = int((batch.labels != -100).sum())
    mean = run(model, batch).loss
    torch.testing.assert_close(run(model, batch, num_items_in_batch=10 * count).loss, mean / 10)
    logits = run(model, batch).logits[:, :-1].log_softmax(-1)
    labels = batch.labels[:, 1:]
    picked = logits.gather(2, labels.clamp(min=0)[..., None])[..., 0][labels != -100]
    torch.testing.assert_close(mean, -picked.mean())


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("backbone", ["qwen2", "gpt2"])
def test_generation_in_a_batch_is_generation_alone(bases, backbone, num_beams):
    model, processor = bases.model(backbone)
    texts = ["Translate.", "Say it in Chinese, please.", "Go."]
    options = {"num_beams": num_beams, "max_new_tokens": 8}
    together = generated(model, prompts_of(processor, WAVES, texts), **options)
    for row in range(3):
        one = prompts_of(processor, WAVES[row : row + 1], texts[row : row + 1])
        alone = generated(model, one, **options)[0]
        assert together[row, : len(alone)].tolist() == alone.tolist()


def test_generation_is_teacher_forcing_one_by_one(pair):
    model, processor = pair
    batch = prompts_of(processor, WAVES[:1], ["Translate."])
    ids = generated(model, batch, max_new_tokens=5)[0]
    for place, token in enumerate(ids.tolist()):
        row = torch.cat([batch.input_ids, ids[None, :place]], 1)
        assert model(row, torch.ones_like(row), **batch.sound).logits[0, -1].argmax().item() == token


def test_generation_leaves_training_mode_and_base_habits_alone(bases):
    model, processor = bases.model()
    model.train()
    generated(model, training_batch(processor, padding_side="left"), max_new_tokens=2)
    assert model.training
    assert model.backbone.generation_config.temperature in (None, 1.0)


def test_fresh_parts_come_from_the_seed_alone(bases):
    paths = bases.path("whisper102"), bases.path("qwen2")
    states = []
    for disturbance, seed in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(disturbance)
        before = torch.get_rng_state()
        settings = {
            "qformer": {"hidden_size": 16, "num_attention_heads": 2},
            "seed": seed,
            "dtype": "float32",
        }
        states.append(AistaForConditionalGeneration.from_bases(*paths, **settings).trainable_state_dict())
        assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["window_qformer.query"], states[2]["window_qformer.query"])


def test_a_fresh_model_is_its_backbone(bases):
    """LoRA starts at zero: text alone gives the backbone's own logits."""
    model = AistaForConditionalGeneration.from_bases(
        bases.path("whisper102"), bases.path("qwen2"), qformer={"hidden_size": 16, "num_attention_heads": 2},
        dtype="float32",
    )  # fmt: skip
    ids = torch.randint(0, 250, (2, 9))
    plain = AutoModelForCausalLM.from_pretrained(bases.path("qwen2"), dtype="float32").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(ids, torch.ones_like(ids)).logits, plain(ids).logits)


def test_mixed_types(bases):
    """Bases in bfloat16, everything trained and BEATs in float32, under autocast or not."""
    model, processor = bases.model(dtype="bfloat16")
    assert model.backbone.get_input_embeddings().weight.dtype == torch.bfloat16
    assert model.audio_encoder.dtype == torch.float32
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    batch = training_batch(processor)
    model.train()
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = run(model, batch).loss
            own = SpeechLM(model).predict(batch).loss
        loss.backward()
        assert loss.isfinite() and loss.dtype == own.dtype == torch.float32  # of 8 bits it would be steps
    with torch.autocast("cpu", dtype=torch.bfloat16):
        warm = model.encode_audio(SpeechInputs(**batch.sound))
    assert torch.equal(warm, model.encode_audio(SpeechInputs(**batch.sound)))
    alone, processor = bases.model(dtype="bfloat16", beats=False)  # features are kept by numpy
    assert alone.encode_audio(processor.audio_inputs(WAVES)).dtype == torch.float32


def test_audio_and_slots_must_fit(pair, bases):
    model, processor = pair
    batch = training_batch(processor)
    without = replace(batch, input_ids=batch.input_ids.masked_fill(batch.span, 0))
    with pytest.raises(ModelInputError, match="no <Speech> slot"):
        run(model, without)
    with pytest.raises(ModelInputError, match="slot has no audio"):
        run(model, replace(batch, sound={}))
    other = bases.model(speech_tokens="padded")[1]
    with pytest.raises(ModelInputError, match="agree in speech_tokens"):
        run(model, training_batch(other))
    with pytest.raises(ModelInputError, match="on the left"):
        generated(model, prompts_of(processor, WAVES, ["a", "bb", "ccc"], padding_side="right"))
    with pytest.raises(ModelInputError, match="fewer features"):
        model.get_audio_features(speech_features=torch.zeros(1, 10, 32), num_samples=torch.tensor([16_000]))
    with pytest.raises(ModelInputError, match="BEATs too"):
        model.get_audio_features(input_features=batch.sound["input_features"])


def test_settings_are_checked(bases):
    paths = bases.path("whisper102"), bases.path("qwen2")
    for settings, message in (
        ({"speech_tokens": "many"}, "speech tokens"),
        ({"lora": {"rank": 3}}, "LoRA settings"),
        ({"lora": {"targets": ["w_q"]}}, "cannot be put[^$]*w_q"),
        ({"lora": {"targets": ["input_layernorm"]}}, "cannot be put[^$]*not supported"),
        ({"qformer": {"hidden": 3}}, "window Q-Former"),
        ({"template": "poem"}, "template"),
        ({"position_ids": "x"}, "position_ids"),
        ({"family": "no.such"}, "family"),
        ({"quantization": "2bit"}, "quantisation"),
    ):
        with pytest.raises(ConfigError, match=message):
            AistaForConditionalGeneration.from_bases(*paths, dtype="float32", **settings)


def test_speech_states_agree_with_the_features(pair):
    model, processor = pair
    audio = processor.audio_inputs(WAVES)
    states = speech_states(model, audio)
    embeddings, mask = tokens_of(model, audio)
    torch.testing.assert_close(states["embeddings"], embeddings.detach())
    assert torch.equal(states["mask"], mask) and len(states["query_states"]) == 3
    assert states["windows"].shape == (int(mask.sum()), 17, model.config.feature_dim)
    assert np.isfinite(states["speech"].numpy()).all()


def test_recomputed_activations_give_the_same_gradients(bases):
    """Also through captured hidden states, which is where the alignment pulls."""
    gradients = []
    for recompute in (False, True):
        model, processor = bases.model(beats=False, lora={"dropout": 0.0}, qformer=QFORMER | NO_DROPOUT)
        if recompute:
            model.activation_checkpointing_enable()
        model.train()
        output = SpeechLM(model).predict(training_batch(processor), [0, 2])
        (output.loss + output.states[2].square().mean() + output.states[0].mean()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)
