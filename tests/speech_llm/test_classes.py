"""Classes of transformers through the one adapter: what probing and aligning rest on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aista.errors import ConfigError
from aista.model.lora import add_lora, is_lora
from aista.speech_llm import Batch, Row, SpeechLM
from tests.speech_llm.classes import CLASSES, VOCABULARY

FRAMES = [20, 80]
PREFIXES, SUFFIXES = ([5, 6, 7], [5, 6]), ([8, 9], [8, 9, 10, 11])
TARGETS, WRITTEN = ([20, 21, 2], [22, 2]), ([30, 31], [32, 33, 34, 35])
LAYERS = range(4)


@pytest.fixture(scope="module", params=CLASSES)
def speech_llm(request) -> SpeechLM:
    return SpeechLM(CLASSES[request.param].model(request.param))


def batch_of(speech_llm: SpeechLM, rows: list[int], side: str = "right") -> Batch:
    """Clips of these numbers with their prompts and targets."""
    config = speech_llm.model.config
    tiny = CLASSES[config.model_type]
    made = []
    for row in rows:
        count, prefix = tiny.tokens(speech_llm.model, FRAMES[row]), PREFIXES[row]
        ids = [*prefix, *[config.audio_token_id] * count, *SUFFIXES[row]]
        made.append(Row(ids, len(prefix), len(prefix) + count, TARGETS[row]))
    sound = tiny.sound(FRAMES)
    chosen = {k: [v[row] for row in rows] if isinstance(v, list) else v[rows] for k, v in sound.items()}
    return Batch.of_rows(made, 0, side, chosen)


def written_of(rows: list[int]) -> Batch:
    """Their transcripts in place of the sound."""
    made = []
    for row in rows:
        ids = [*PREFIXES[row], *WRITTEN[row]]
        made.append(Row(ids, len(PREFIXES[row]), len(ids), []))
    return Batch.of_rows(made, 0, "right")


def whole(speech_llm: SpeechLM, batch: Batch) -> tuple[torch.Tensor, ...]:
    """transformers' own hidden states, with the mask."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **batch.sound}
    return speech_llm.model(**inputs, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("side", ["right", "left"])
def test_states_are_output_hidden_states(speech_llm: SpeechLM, side: str) -> None:
    assert speech_llm.num_layers == 3 and speech_llm.hidden_size == 24
    batch = batch_of(speech_llm, [0, 1], side)
    real = batch.attention_mask.bool()
    wanted = whole(speech_llm, batch)
    for found in (speech_llm.predict(batch, LAYERS).states, speech_llm.states(batch, LAYERS)):
        for layer in LAYERS:
            torch.testing.assert_close(found[layer][real], wanted[layer][real], atol=1e-5, rtol=1e-5)
    some = speech_llm.states(batch, [1])
    torch.testing.assert_close(some[1][real], wanted[1][real], atol=1e-5, rtol=1e-5)


def test_the_decoder_alone_gives_the_text_branch(speech_llm: SpeechLM) -> None:
    batch = written_of([0, 1])
    real = batch.attention_mask.bool()
    with torch.no_grad():
        wanted = whole(speech_llm, batch)
    for layers in ([0], [1, 2], [0, 3]):
        found = speech_llm.text_states(batch, layers)
        for layer in layers:
            torch.testing.assert_close(found[layer][real], wanted[layer][real], atol=1e-5, rtol=1e-5)
    assert len(speech_llm.decoder.blocks) == 3


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_gives_what_its_rows_give_alone(speech_llm: SpeechLM, side: str) -> None:
    for rows in ([0, 1], [1, 0]):
        together = batch_of(speech_llm, rows, side)
        states = speech_llm.states(together, LAYERS)
        for place, row in enumerate(rows):
            one = batch_of(speech_llm, [row], side)
            alone = speech_llm.states(one, LAYERS)
            real = together.attention_mask[place].bool()
            for layer in LAYERS:
                torch.testing.assert_close(states[layer][place][real], alone[layer][0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_text_may_stand_between_clips(speech_llm: SpeechLM, side: str) -> None:
    """Rows with and without sound in one batch: each has the states and the loss that it has alone."""
    clips = batch_of(speech_llm, [0, 1], side)
    text = Row([*PREFIXES[0], *WRITTEN[1], *SUFFIXES[1]], 3, 7, TARGETS[1])
    first, second = clips.rows()
    mixed = Batch.of_rows([first, text, second], 0, side, clips.sound, heard=(0, 2))
    states = speech_llm.states(mixed, LAYERS)
    alone = [batch_of(speech_llm, [0]), Batch.of_rows([text], 0, "right"), batch_of(speech_llm, [1])]
    for place, batch in enumerate(alone):
        real, wanted = mixed.attention_mask[place].bool(), speech_llm.states(batch, LAYERS)
        for layer in LAYERS:
            torch.testing.assert_close(states[layer][place][real], wanted[layer][0], atol=1e-4, rtol=1e-4)
    losses = [speech_llm.predict(batch, num_items_in_batch=1).loss for batch in alone]
    torch.testing.assert_close(speech_llm.predict(mixed, num_items_in_batch=1).loss, sum(losses))
    assert torch.equal(mixed.of_heard(mixed.input_ids), mixed.input_ids[[0, 2]])


def test_the_loss_is_the_cross_entropy_of_the_targets(speech_llm: SpeechLM, monkeypatch) -> None:
    batch = batch_of(speech_llm, [0, 1])
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **batch.sound}
    logits = speech_llm.model(**inputs).logits[:, :-1]
    labels = batch.labels[:, 1:]
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    right = int(((logits.argmax(-1) == labels) & (labels != -100)).sum())
    for keep in ("all", "targets", "none"):
        output = speech_llm.predict(batch, logits=keep)
        torch.testing.assert_close(output.loss, wanted, atol=1e-5, rtol=1e-5)
        assert int(output.correct) == right
    monkeypatch.setattr("aista.speech_llm.prediction.MOST_LOGITS", 2 * VOCABULARY)
    torch.testing.assert_close(speech_llm.predict(batch).loss, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_gradient_reaches_the_projector_and_lora_and_the_loss_falls(name: str) -> None:
    """Cross-entropy, and speech drawn to its transcript at layer 2: what joint training descends."""
    speech_llm = SpeechLM(CLASSES[name].model(name))
    model: Any = speech_llm.model
    model.requires_grad_(False)
    torch.manual_seed(0)
    if name != "aista":  # ours has its own
        add_lora(speech_llm.decoder.module, {"r": 2, "alpha": 4, "dropout": 0.0}, ["q_proj", "v_proj"])
    for parameter_name, parameter in model.named_parameters():
        if f".{CLASSES[name].projector}." in f".{parameter_name}" or is_lora(parameter_name):
            parameter.requires_grad_(True)
    batch, text = batch_of(speech_llm, [0, 1]), written_of([0, 1])
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    target = speech_llm.text_states(text, [2])[2][text.span].mean(0)
    losses = []
    for _ in range(8):
        output = speech_llm.predict(batch, [2])
        loss = output.loss + (output.states[2][batch.span].mean(0) - target).square().sum()
        loss.backward()
        reached = {n for n, p in trained.items() if p.grad is not None and p.grad.any()}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert any(is_lora(n) for n in reached) and any(not is_lora(n) for n in reached)
    assert losses[-1] < losses[0]
    after = dict(model.named_parameters())
    assert all(torch.equal(p, after[n]) for n, p in frozen.items())


def test_generation_returns_the_new_tokens(speech_llm: SpeechLM) -> None:
    batch = batch_of(speech_llm, [0, 1], "left")
    new = speech_llm.generate(batch, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert new.shape == (2, 4)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **batch.sound}
    logits = speech_llm.model(**inputs).logits[:, -1].index_fill(1, torch.tensor([2]), -torch.inf)
    assert torch.equal(logits.argmax(-1), new[:, 0])  # the first may not be the end


def test_a_model_without_a_placeholder_is_refused() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=1, intermediate_size=8))
    with pytest.raises(ConfigError, match="no placeholder"):
        SpeechLM(model)
