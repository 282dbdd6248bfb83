"""Switches of speed and memory change neither what is computed nor what is looked at."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from aista.config import TrainSettings
from aista.errors import ConfigError
from aista.model import AistaForConditionalGeneration, AistaProcessor
from aista.speech_llm import SpeechLM, decoder
from aista.training import stages
from aista.training.stages import fresh_model, speed_up
from tests import tiny
from tests.model.conftest import noise


@pytest.fixture(scope="module")
def parts(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[AistaForConditionalGeneration, AistaProcessor]:
    settings = tiny.pretrain_settings(tmp_path_factory.mktemp("bases"))
    return fresh_model(settings.model, 0)


def states(parts: tuple[AistaForConditionalGeneration, AistaProcessor]) -> list[torch.Tensor]:
    """What a step looks at: the loss, hidden states of speech, of a text at layer 1 and at layer 0."""
    model, processor = parts
    speech_llm = SpeechLM(model, processor)
    batcher = speech_llm.batcher
    batch = batcher.training(noise(0.5, 1.0), ["Translate."] * 2, ["Ja.", "Nein."])
    text = batcher.written(batch, ["Yes.", "No, no."])
    found = []
    for _ in range(2):
        output = speech_llm.predict(batch, [0, 2], logits="all")
        output.loss.backward()
        written = speech_llm.text_states(text, [1])[1]
        embedded = speech_llm.text_states(text, [0])[0]
        found = [output.loss, output.states[0], output.states[2], written, embedded]
    return [each.detach() for each in found]


@pytest.mark.parametrize(
    "switch",
    [
        {"attn_implementation": "eager"},
        {"attn_implementation": "sdpa"},
        pytest.param({"compile_blocks": True}, marks=pytest.mark.slow),
    ],
)
def test_a_switch_changes_nothing(
    parts: tuple[AistaForConditionalGeneration, AistaProcessor],
    monkeypatch: pytest.MonkeyPatch,
    switch: dict,
) -> None:
    wanted = states(parts)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    speed_up(parts[0], TrainSettings(**switch))
    for found, want in zip(states(parts), wanted, strict=True):
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)


def test_an_attention_that_is_not_there_is_refused(
    parts: tuple[AistaForConditionalGeneration, AistaProcessor],
) -> None:
    with pytest.raises(ConfigError, match="attention"):
        speed_up(parts[0], TrainSettings(attn_implementation="flash_attention_2"))


@pytest.mark.parametrize("capable", [{"avx512_bf16": True}, {"amx_bf16": True}, {"avx2": True}])
def test_bfloat16_is_recommended_where_a_cpu_has_it_and_a_backbone_is_large(
    parts: tuple[AistaForConditionalGeneration, AistaProcessor], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], capable: dict[str, bool],
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable)
    stages.recommend_bfloat16(parts[0])
    assert not capsys.readouterr().err  # it is small
    monkeypatch.setattr(stages, "LARGE", 1_000)
    stages.recommend_bfloat16(parts[0])
    assert ("--set dtype=bfloat16" in capsys.readouterr().err) == ("avx2" not in capable)


def test_switches_are_settings(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    settings = TrainSettings(compile_blocks=True, attn_implementation="sdpa", nonfinite="skip")
    settings.save(path)
    assert TrainSettings.load(path) == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [("sliding_window", 4096), ("layer_types", ["sliding_attention"]), ("rope_parameters", None)],
)
def test_rows_that_would_not_be_the_same_are_not_packed(
    parts: tuple[AistaForConditionalGeneration, AistaProcessor],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: object,
) -> None:
    speech_llm = SpeechLM(*parts)
    speech_llm.pack_rows()
    assert speech_llm.packs
    monkeypatch.setattr(speech_llm.decoder.module.config, name, value)
    with pytest.raises(ConfigError, match="cannot be packed"):
        speech_llm.pack_rows()


@pytest.mark.parametrize("most_logits", [1 << 27, 5 * 262])
def test_packed_rows_are_the_same_rows(
    parts: tuple[AistaForConditionalGeneration, AistaProcessor],
    monkeypatch: pytest.MonkeyPatch,
    most_logits: int,
) -> None:
    """Losses, states and gradients, of speech and texts in one batch, whatever their lengths; and where the
    targets are so many that their logits are computed in parts."""
    monkeypatch.setattr(decoder, "MOST_LOGITS", most_logits)
    model, processor = parts
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, and then no gradient reaches the other half
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    speech_llm = SpeechLM(model, processor)
    contents = [*noise(0.5, 1.0), "A text in the slot."]
    asked = ["Translate.", "Translate it.", "Translate."]
    batch = speech_llm.batcher.training(contents, asked, ["Ja.", "Nein.", "Vielleicht, sagt er."])
    text = speech_llm.batcher.written(batch, ["Yes.", "No, no."])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    runs = []
    for speech_llm.packs in (False, True):
        lengths: list[int] = []
        hook = speech_llm.decoder.module.register_forward_hook(
            lambda _, __, output, seen=lengths: seen.append(output.last_hidden_state.numel())
        )
        output = speech_llm.predict(batch, [0, 1, speech_llm.num_layers])
        written = speech_llm.text_states(text, [0, 1])
        states = speech_llm.states(batch, [1])[1]
        hook.remove()
        real = batch.attention_mask.bool()
        gradients = torch.autograd.grad(output.loss + states[real].square().mean(), trained)
        runs.append([output.loss, *(output.states[k][real] for k in output.states), states[real],
                     *(written[k][text.attention_mask.bool()] for k in written), *gradients])  # fmt: skip
        assert output.loss.isfinite()
    ran = lengths[-3]  # of the prediction, behind it the text branch and the states
    assert ran < batch.input_ids.numel() * speech_llm.hidden_size  # it did run as one
    for found, want in zip(*runs, strict=True):
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)
