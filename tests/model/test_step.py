"""What a training step is spared: logits nobody asked for, blocks nobody needs, waiting for the device."""

from __future__ import annotations

import contextlib

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from aista.alignment import PairedStates
from aista.alignment.base import Alignment
from aista.model import hidden, outputs, speech_lm
from aista.model.layout import Layout, places, put, take
from aista.model.spans import take_span
from aista.training.objective import SpeechTextObjective
from tests.model.conftest import BACKBONES, noise

WAVES = noise(0.4, 1.3, 1.9)
TARGETS = ["Ja.", "Die Glocke.", "Es ist spät."]
TRANSCRIPTS = ["Yes.", "The bell.", "It is late."]


def training_batch(processor, **options):
    return dict(processor(WAVES, "Translate.", TARGETS, **options))


def gradients(model, loss) -> dict[str, torch.Tensor]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("keep", ["targets", "none", "parts"])
def test_logits_of_the_targets_alone_are_the_full_computation(bases, monkeypatch, backbone, keep):
    model, processor = bases.model(backbone, beats=False)
    batch = training_batch(processor)
    full = model(**batch)
    if keep == "parts":  # as if the vocabulary were too large
        monkeypatch.setattr(speech_lm, "MOST_LOGITS", 5 * 262)
    short = model(**batch, logits="none" if keep == "parts" else keep)
    asked = batch["labels"][:, 1:] != -100
    torch.testing.assert_close(short.loss, full.loss, atol=1e-6, rtol=1e-6)
    right = (full.logits[:, :-1].argmax(-1) == batch["labels"][:, 1:]) & asked
    assert int(short.correct) == int(full.correct) == int(right.sum())
    assert short.targets == int(asked.sum())
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
    assert not hidden.head_is_plain(Gemma2ForCausalLM(Gemma2Config(**sizes, **rest)))
    assert hidden.head_is_plain(BACKBONES["qwen2"]())


def test_rows_without_a_target_cost_nothing(pair):
    model, processor = pair
    batch = training_batch(processor)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    for keep in ("all", "none"):
        assert model(**batch, logits=keep).loss == 0.0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_embedding_layer_needs_no_block(bases, monkeypatch, backbone):
    model, processor = bases.model(backbone, beats=False)
    batch = training_batch(processor, transcripts=TRANSCRIPTS)
    ran = []
    for number, block in enumerate(model.family.blocks_of(model.backbone)):
        attention = block.attn if backbone == "gpt2" else block.self_attn
        attention.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    for layers, blocks in (([0], []), ([1], [0]), ([0, 2], [0, 1]), ([3], [0, 1, 2])):
        ran.clear()
        model.text_states(batch["transcript_input_ids"], batch["transcript_attention_mask"], layers)
        assert ran == blocks


def test_pads_on_the_right_need_no_mask(bases):
    """The same batch padded right (no mask) and left (mask): the same loss."""
    model, processor = bases.model(beats=False)
    right, left = (model(**training_batch(processor, padding_side=side)) for side in ("right", "left"))
    assert right.layout.right_padded and not left.layout.right_padded
    torch.testing.assert_close(left.loss, right.loss, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("side", ["right", "left", "between"])
def test_the_processors_layout_is_what_the_masks_say(pair, side):
    _, processor = pair
    batch = training_batch(processor, padding_side=side, transcripts=TRANSCRIPTS)
    read = Layout.read(batch["attention_mask"], batch["speech_mask"], batch["labels"])
    given = batch["layout"]
    assert (read.speech_tokens, read.widest_speech) == (given.speech_tokens, given.widest_speech)
    assert (read.targets, read.right_padded) == (given.targets, given.right_padded)
    assert given.widest_transcript == int(batch["transcript_mask"].sum(1).max())


def test_places():
    mask = torch.tensor([[True, False, True], [False, True, False]])
    where = places(mask)
    assert where.tolist() == places(mask, 3).tolist() == [0, 2, 4]
    states = torch.arange(12.0).reshape(2, 3, 2)
    assert torch.equal(take(states, where), states[mask])
    assert torch.equal(put(states, where, states[mask] + 1)[mask], states[mask] + 1)
    assert torch.equal(take_span(states, mask, width=2)[0], take_span(states, mask)[0])


class Mean(Alignment):
    """An alignment method that stays on the device."""

    def pair_losses(self, states: PairedStates) -> dict[str, torch.Tensor]:
        return {f"mean_{k}": states.speech[k].mean((1, 2)) - states.text[k].mean((1, 2)) for k in self.layers}


@pytest.mark.parametrize("cached", [True, False])
def test_a_step_never_asks_the_device(bases, monkeypatch, cached):
    """On the meta device there is nothing to read: whatever waits for a number fails.

    What transformers asks by itself (whether positions are packed) is put aside.
    """
    model, processor = bases.model(beats=not cached)
    batch = training_batch(processor, transcripts=TRANSCRIPTS)
    if cached:
        audio = {name: batch.pop(name) for name in ("input_features", "num_samples")}
        batch |= {"speech_features": model.encode_audio(**audio), "num_samples": audio["num_samples"]}
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda _: None)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # knows no meta
    objective = SpeechTextObjective(model, Mean((0, 2)), 0.5).to("meta").train()
    meta = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    joint = objective(**meta)
    joint.loss.backward()
    assert set(joint.parts) == {"ce", "token_accuracy", "mean_0", "mean_2"}
    with pytest.raises((RuntimeError, NotImplementedError)):  # without the layout it would ask
        objective(**meta | {"layout": None})


def test_a_large_vocabulary_is_never_whole(bases, monkeypatch):
    """The largest logits that exist have MOST_LOGITS / 2 numbers."""
    model, processor = bases.model(beats=False)
    sizes = []
    score = outputs._score
    monkeypatch.setattr(
        outputs, "_score", lambda logits, ids: sizes.append(len(logits)) or score(logits, ids)
    )
    monkeypatch.setattr(speech_lm, "MOST_LOGITS", 8 * 262)
    model(**training_batch(processor), logits="none").loss.backward()
    assert max(sizes) == 4
