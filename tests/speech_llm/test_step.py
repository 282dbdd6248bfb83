"""What a training step is spared: logits nobody asked for, blocks nobody needs, waiting for the device."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from aista.alignment import PairedStates
from aista.alignment.base import Alignment
from aista.model import SpeechInputs
from aista.model.processing import positions, put, take
from aista.speech_llm import Batch, Batcher, SpeechLM, decoder, take_span
from aista.training.objective import SpeechTextObjective
from tests.model.conftest import BACKBONES, noise, run

WAVES = noise(0.4, 1.3, 1.9)
TARGETS = ["Ja.", "Die Glocke.", "Es ist spät."]
TRANSCRIPTS = ["Yes.", "The bell.", "It is late."]


def training_batch(processor, **options) -> Batch:
    return Batcher(processor, processor.config).training(WAVES, ["Translate."] * 3, TARGETS, **options)


def text_of(processor, batch: Batch) -> Batch:
    return Batcher(processor, processor.config).written(batch, TRANSCRIPTS)


def gradients(model, loss) -> dict[str, torch.Tensor]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("keep", ["targets", "none", "parts"])
def test_logits_of_the_targets_alone_are_the_full_computation(bases, monkeypatch, backbone, keep):
    model, processor = bases.model(backbone, beats=False)
    batch = training_batch(processor)
    full = SpeechLM(model).predict(batch, logits="all")
    plain = run(model, batch)
    torch.testing.assert_close(full.loss, plain.loss, atol=1e-6, rtol=1e-6)
    if keep == "parts":  # as if the vocabulary were too large
        monkeypatch.setattr(decoder, "MOST_LOGITS", 5 * 262)
    short = SpeechLM(model).predict(batch, logits="none" if keep == "parts" else keep)
    asked = batch.labels[:, 1:] != -100
    torch.testing.assert_close(short.loss, full.loss, atol=1e-6, rtol=1e-6)
    right = (full.logits[:, :-1].argmax(-1) == batch.labels[:, 1:]) & asked
    assert int(short.correct) == int(full.correct) == int(right.sum())
    assert batch.num_targets == int(asked.sum())
    if keep == "targets":
        torch.testing.assert_close(short.logits, full.logits[:, :-1][asked], atol=1e-6, rtol=1e-5)
    assert keep != "parts" or short.logits is None
    wanted, found = gradients(model, full.loss), gradients(model, short.loss)
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


def test_a_head_with_something_after_it_is_noticed():
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    rest = {"num_key_value_heads": 1, "intermediate_size": 16, "head_dim": 8}
    assert not decoder.head_is_plain(Gemma2ForCausalLM(Gemma2Config(**sizes, **rest)))
    assert decoder.head_is_plain(BACKBONES["qwen2"]())


def test_rows_without_a_target_cost_nothing(pair):
    model, processor = pair
    batch = training_batch(processor)
    batch = replace(batch, labels=torch.full_like(batch.labels, -100), num_targets=0)
    for keep in ("all", "none"):
        assert SpeechLM(model).predict(batch, logits=keep).loss == 0.0
    assert run(model, batch).loss == 0.0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_embedding_layer_needs_no_block(bases, monkeypatch, backbone):
    model, processor = bases.model(backbone, beats=False)
    text = text_of(processor, training_batch(processor))
    speech_llm = SpeechLM(model)
    ran = []
    for number, block in enumerate(speech_llm.decoder.blocks):
        attention = block.attn if backbone == "gpt2" else block.self_attn
        attention.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    for layers, blocks in (([0], []), ([1], [0]), ([0, 2], [0, 1]), ([3], [0, 1, 2])):
        ran.clear()
        speech_llm.text_states(text, layers)
        assert ran == blocks


def test_pads_on_the_right_need_no_mask(bases):
    """The same batch padded right (no mask) and left (mask): the same loss."""
    model, processor = bases.model(beats=False)
    right, left = (training_batch(processor, padding_side=side) for side in ("right", "left"))
    assert right.right_padded and not left.right_padded
    assert right.inputs()["attention_mask"] is None and left.inputs()["attention_mask"] is not None
    losses = [SpeechLM(model).predict(batch).loss for batch in (left, right)]
    torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("side", ["right", "left", "between"])
def test_a_batchs_numbers_are_what_its_masks_say(pair, side):
    model, processor = pair
    given = training_batch(processor, padding_side=side)
    inputs = {"input_ids": given.input_ids, "attention_mask": given.attention_mask, **given.sound}
    read = Batch.of_inputs(inputs, model.config.audio_token_id, given.labels)
    assert torch.equal(read.span, given.span) and read.sound.keys() == given.sound.keys()
    assert (read.widest_span, read.num_targets) == (given.widest_span, given.num_targets)
    assert read.right_padded == given.right_padded
    assert read.rows() == given.rows()
    text = text_of(processor, given)
    assert text.widest_span == int(text.span.sum(1).max()) and text.right_padded


def test_rows_without_a_placeholder_have_no_sound(bases):
    """As a processor gives them, where one of several prompts has no audio in it."""
    model, processor = bases.model(beats=False)
    given = training_batch(processor)
    first, second, third = given.rows()
    silent = replace(second, prompt=[7, 8], start=0, stop=0)
    mixed = Batch.of_rows([first, silent, third], 0, "right", given.sound, heard=(0, 2))
    inputs = {"input_ids": mixed.input_ids, "attention_mask": mixed.attention_mask, **given.sound}
    read = Batch.of_inputs(inputs, model.config.audio_token_id, mixed.labels)
    assert read.heard == (0, 2) and read.rows() == mixed.rows()
    text = Batcher(processor, processor.config).written(read, ["Yes.", "It is late."])
    assert text.size == 2


def test_positions():
    mask = torch.tensor([[True, False, True], [False, True, False]])
    where = positions(mask)
    assert where.tolist() == positions(mask, 3).tolist() == [0, 2, 4]
    states = torch.arange(12.0).reshape(2, 3, 2)
    assert torch.equal(take(states, where), states[mask])
    assert torch.equal(put(states, where, states[mask] + 1)[mask], states[mask] + 1)
    assert torch.equal(take_span(states, mask, width=2)[0], take_span(states, mask)[0])


class Mean(Alignment):
    """An alignment method that stays on the device."""

    def pair_losses(self, states: PairedStates) -> dict[str, torch.Tensor]:
        return {f"mean_{k}": states.speech[k].mean((1, 2)) - states.text[k].mean((1, 2)) for k in self.layers}


@pytest.mark.slow
@pytest.mark.parametrize("cached", [True, False])
def test_a_step_never_asks_the_device(bases, monkeypatch, cached):
    """On the meta device there is nothing to read: whatever waits for a number fails.

    What transformers asks by itself (whether positions are packed) is put aside.
    """
    model, processor = bases.model(beats=not cached)
    batch = training_batch(processor)
    text = text_of(processor, batch)
    if cached:
        audio = SpeechInputs(**batch.sound)
        sound = {"speech_features": model.encode_audio(audio), "num_samples": audio.num_samples}
        batch = replace(batch, sound=sound)
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda _: None)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # knows no meta
    objective = SpeechTextObjective(model, Mean((0, 2)), 0.5).to("meta").train()
    joint = objective(speech=batch.to("meta"), text=text.to("meta"))
    joint.loss.backward()
    assert set(joint.parts) == {"ce", "token_accuracy", "mean_0", "mean_2"}
    for unknown in ({"num_targets": None}, {"widest_span": None}):  # without the numbers it would ask
        with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
            objective(speech=replace(batch.to("meta"), **unknown), text=text.to("meta"))


def test_a_large_vocabulary_is_never_whole(bases, monkeypatch):
    """The largest logits that exist have MOST_LOGITS / 2 numbers."""
    model, processor = bases.model(beats=False)
    sizes = []
    score = decoder._score
    monkeypatch.setattr(
        decoder, "_score", lambda logits, ids: sizes.append(len(logits)) or score(logits, ids)
    )
    monkeypatch.setattr(decoder, "MOST_LOGITS", 8 * 262)
    SpeechLM(model).predict(training_batch(processor), logits="none").loss.backward()
    assert max(sizes) == 4
