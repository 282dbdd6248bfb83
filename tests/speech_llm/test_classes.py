"""Classes of transformers through the one adapter: what probing and aligning rest on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ot
import pytest
import torch
from transformers import AutoConfig

from aista import retrieval
from aista.alignment import alignment
from aista.errors import CheckpointError, ConfigError
from aista.model.loading import Options, read_trained
from aista.model.lora import is_lora
from aista.speech_llm import Batch, Row, SpeechLM
from aista.speech_llm.adapted import Adaptation, load_whole
from aista.speech_llm.adapter import auto_class, require_placeholder
from aista.speech_llm.classes import speech_class
from aista.training.objective import SpeechTextObjective
from tests.speech_llm.classes import CLASSES, PARAMS, UNDRAWN, VOCABULARY, undrawn

PREFIXES, SUFFIXES = ([5, 6, 7], [5, 6]), ([8, 9], [8, 9, 10, 11])
TARGETS, WRITTEN = ([20, 21, 2], [22, 2]), ([30, 31], [32, 33, 34, 35])
LAYERS = range(4)


@pytest.fixture(scope="module", params=PARAMS)
def speech_llm(request) -> SpeechLM:
    return SpeechLM(CLASSES[request.param].model(request.param))


def batch_of(speech_llm: SpeechLM, rows: list[int], side: str = "right") -> Batch:
    """Clips of these numbers with their prompts and targets."""
    config = speech_llm.model.config
    tiny = CLASSES[config.model_type]
    made = []
    for row in rows:
        count, prefix = tiny.tokens(speech_llm.model, tiny.frames[row]), PREFIXES[row]
        ids = [*prefix, *[speech_llm.audio_token_id] * count, *SUFFIXES[row]]
        made.append(Row(ids, len(prefix), len(prefix) + count, TARGETS[row]))
    sound = tiny.sound(list(tiny.frames))
    chosen = {k: [v[row] for row in rows] if isinstance(v, list) else v[rows] for k, v in sound.items()}
    return Batch.of_rows(made, 0, side, chosen)


def written_of(rows: list[int]) -> Batch:
    """Their transcripts in place of the sound."""
    made = []
    for row in rows:
        ids = [*PREFIXES[row], *WRITTEN[row]]
        made.append(Row(ids, len(PREFIXES[row]), len(ids), []))
    return Batch.of_rows(made, 0, "right")


def given(speech_llm: SpeechLM, batch: Batch) -> dict[str, Any]:
    """What the model itself takes, the mask always among it."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **batch.sound}
    return {**inputs, **speech_llm.kind.forward_options}


def whole(speech_llm: SpeechLM, batch: Batch) -> tuple[torch.Tensor, ...]:
    """transformers' own hidden states, with the mask; the last one after the final norm."""
    inputs = given(speech_llm, batch)
    states = speech_llm.model(**inputs, output_hidden_states=True).hidden_states
    if states[-1].dim() == 4:  # several streams up to the last block
        last = speech_llm.model.model(**inputs).last_hidden_state
        return (*(each[speech_llm.kind.stream] for each in states[:-1]), last)
    return states


@pytest.mark.slow
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


@pytest.mark.slow
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
                torch.testing.assert_close(states[layer][place][real], alone[layer][0], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
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
    logits = speech_llm.model(**given(speech_llm, batch)).logits[:, :-1]
    labels = batch.labels[:, 1:]
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    right = int(((logits.argmax(-1) == labels) & (labels != -100)).sum())
    for keep in ("all", "targets", "none"):
        output = speech_llm.predict(batch, logits=keep)
        torch.testing.assert_close(output.loss, wanted, atol=1e-5, rtol=1e-5)
        assert int(output.correct) == right
    monkeypatch.setattr("aista.speech_llm.decoder.MOST_LOGITS", 2 * VOCABULARY)
    torch.testing.assert_close(speech_llm.predict(batch).loss, wanted, atol=1e-5, rtol=1e-5)


SOMEBODY_ELSES = [param for param in PARAMS if param != "aista"]  # ours: tests/model, tests/training


def adapted(model: Any, name: str, seed: int = 0, targets: list[str] | None = None) -> SpeechLM:
    """Make a class's model trainable, as training does."""
    lora = {"r": 2, "alpha": 4, "dropout": 0.0, "targets": targets}
    if name == "aista":  # ours has its own LoRA
        model.requires_grad_(False)
        for part in model.trained_names():
            model.get_parameter(part).requires_grad_(True)
    else:
        Adaptation(model, speech_class(name), {"base": {}, "lora": lora, "seed": seed, "directions": None})
    return SpeechLM(model)


def objective_of(speech_llm: SpeechLM) -> SpeechTextObjective:
    return SpeechTextObjective(speech_llm, alignment("wasserstein", (1, 2), scale="cosine"), 0.5).train()


def steps(
    objective: SpeechTextObjective, optimizer: torch.optim.Optimizer, count: int, start: int = 0
) -> list[float]:
    """Take steps of Eq. 6 on the two clips; the number of a step is the seed of its dropout."""
    losses: list[float] = []
    for step in range(start, start + count):
        torch.manual_seed(step)
        loss = objective(speech=batch_of(objective.speech_llm, [0, 1]), text=written_of([0, 1])).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if len(losses) < count:
            optimizer.zero_grad()
    return losses


def optimizer_of(objective: SpeechTextObjective) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMS)
def test_gradient_reaches_the_projector_and_lora_and_the_loss_falls(name: str) -> None:
    """Cross-entropy and exact transport at layers 1 and 2: what joint training descends."""
    objective = objective_of(adapted(CLASSES[name].model(name), name))
    named = dict(objective.named_parameters())
    frozen = {n: p.clone() for n, p in named.items() if not p.requires_grad}
    losses = steps(objective, optimizer_of(objective), 8)
    reached = {n for n, p in named.items() if p.grad is not None and p.grad.any()}
    assert all(named[n].requires_grad for n in reached)
    assert any(is_lora(n) for n in reached) and any(not is_lora(n) for n in reached)
    assert losses[-1] < losses[0]
    assert all(torch.equal(tensor, named[n]) for n, tensor in frozen.items())
    lora_outside = [n for n in named if is_lora(n) and ".layers." not in n]
    assert not lora_outside and len(reached) < len(named) / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", SOMEBODY_ELSES)
def test_saved_loaded_and_merged_it_is_the_same_model(name: str, tmp_path: Path) -> None:
    base, trained, plain = tmp_path / "base", tmp_path / "trained", tmp_path / "plain"
    CLASSES[name].model(name).save_pretrained(base)

    def loaded(folder: Path) -> Any:
        config = AutoConfig.from_pretrained(folder)
        with CLASSES[name].around():
            return load_whole(auto_class(config), folder, config, Options())

    speech_llm = adapted(loaded(base), name, seed=3)
    objective = objective_of(speech_llm)
    steps(objective, optimizer_of(objective), 2)
    objective.eval().save(trained)
    assert {path.name for path in trained.iterdir()} == {"adapted.json", "model.safetensors"}
    batch = batch_of(speech_llm, [0, 1], "left")
    wanted = logits(speech_llm, batch)
    again = adapted(loaded(base), name, seed=4)
    assert not torch.allclose(logits(again, batch), wanted, atol=1e-4)
    state = read_trained(trained)
    again.keeper.load_trainable(state)
    assert torch.equal(logits(again, batch), wanted)
    for wrong in ({**state, "extra": torch.zeros(1)}, dict(list(state.items())[1:])):
        with pytest.raises(CheckpointError, match="trained part"):
            again.keeper.load_trainable(wrong)
    again.keeper.merge().save_pretrained(plain)
    merged = SpeechLM(loaded(plain))
    assert merged.keeper is merged.model and not any(is_lora(n) for n, _ in merged.model.named_parameters())
    torch.testing.assert_close(logits(merged, batch), wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def logits(speech_llm: SpeechLM, batch: Batch) -> torch.Tensor:
    return speech_llm.predict(batch, logits="targets").logits


@pytest.mark.slow
@pytest.mark.parametrize("name", SOMEBODY_ELSES)
def test_resumed_it_goes_on_to_the_last_bit(name: str, tmp_path: Path) -> None:
    whole_run = objective_of(adapted(CLASSES[name].model(name), name))
    steps(whole_run, optimizer_of(whole_run), 3)
    first = objective_of(adapted(CLASSES[name].model(name), name))
    optimizer = optimizer_of(first)
    steps(first, optimizer, 1)
    first.save(tmp_path)
    second = objective_of(adapted(CLASSES[name].model(name), name, seed=7))
    second.load(tmp_path)
    resumed = optimizer_of(second)
    resumed.load_state_dict(optimizer.state_dict())
    steps(second, resumed, 2, start=1)
    ends = [each.speech_llm.keeper.trainable_state_dict() for each in (whole_run, second)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(tensor, ends[1][n]) for n, tensor in ends[0].items())


def test_mrr_is_that_of_a_plain_loop_over_pot(speech_llm: SpeechLM) -> None:
    """Every clip against every transcript, in float64, by another solver."""
    speech, text = batch_of(speech_llm, [0, 1]), written_of([0, 1])
    with torch.no_grad():
        heard, read = speech_llm.states(speech, LAYERS), speech_llm.text_states(text, LAYERS)
    for layer in LAYERS:
        clouds = [row[keep] for row, keep in zip(heard[layer], speech.span, strict=True)]
        texts = [row[keep] for row, keep in zip(read[layer], text.span, strict=True)]
        distances = [[_emd(cloud, words) for words in texts] for cloud in clouds]
        ranks = [sum(value < row[k] for value in row) + 1 for k, row in enumerate(distances)]
        assert retrieval.exact_ranks(clouds, texts).mrr == pytest.approx(sum(1 / r for r in ranks) / 2)


def _emd(cloud: torch.Tensor, words: torch.Tensor) -> float:
    one, other = cloud.double().numpy(), words.double().numpy()
    cost = ((one[:, None] - other[None]) ** 2).sum(-1)
    return float(ot.emd2(ot.unif(len(one)), ot.unif(len(other)), cost))


def test_generation_returns_the_new_tokens(speech_llm: SpeechLM) -> None:
    batch = batch_of(speech_llm, [0, 1], "left")
    new = speech_llm.generate(batch, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert new.shape == (2, 4)
    logits = (
        speech_llm.model(**given(speech_llm, batch))
        .logits[:, -1]
        .index_fill(1, torch.tensor([2]), -torch.inf)
    )
    assert torch.equal(logits.argmax(-1), new[:, 0])  # the first may not be the end


@pytest.mark.parametrize(("name", "why"), UNDRAWN.items())
def test_a_class_without_a_model_here_says_why(name: str, why: str) -> None:
    pytest.skip(f"{name}: {why}")


def test_every_class_of_the_package_runs_here_or_says_why() -> None:
    assert not undrawn()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("voxtral_realtime", "added to every position"),
        ("kyutai_speech_to_text", "added to every position"),
        ("nemotron_h_omni", "no blocks"),
        ("vibevoice", "it speaks"),
    ],
)
def test_a_class_that_cannot_be_probed_is_refused_by_its_configuration(
    name: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=why):
        speech_class(name)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
    with pytest.raises(ConfigError, match=why):
        SpeechLM.load(tmp_path)


def test_a_model_of_a_class_that_hears_may_have_no_ears() -> None:
    with pytest.raises(ConfigError, match="audio_config is null"):
        require_placeholder(AutoConfig.for_model("gemma4", audio_config=None))


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="one sequence"):
        require_placeholder(AutoConfig.for_model("whisper"))


def test_a_model_without_a_placeholder_is_refused() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=1, intermediate_size=8))
    with pytest.raises(ConfigError, match="no placeholder"):
        SpeechLM(model)
