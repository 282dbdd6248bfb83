"""Where classes differ: added silence, markers inside sound, LoRA of the checkpoint, the part that hears."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedModel

from aista.errors import ConfigError
from aista.model.loading import Options
from aista.model.lora import is_lora
from aista.speech_llm import Batch, Batcher, SpeechLM, take_span
from aista.speech_llm.adapted import describe, load_whole
from aista.speech_llm.adapter import auto_class
from aista.speech_llm.classes import speech_class
from tests.baselines import tiny_systems
from tests.model.conftest import noise
from tests.speech_llm.classes import CLASSES
from tests.speech_llm.test_classes import adapted, batch_of, logits, written_of

PER_BLOCK, BLOCK_SECONDS = 188, 30.0


class FixedProcessor:
    """Fills sound up to whole blocks of 30 s, as Voxtral's and Gemma 3n's processors do."""

    audio_token = tiny_systems.AUDIO

    def __init__(self, folder: Path, markers: bool = False) -> None:
        self.tokenizer, self.markers = tiny_systems.tokenizer(folder), markers

    def apply_chat_template(self, messages: list[Any], **options: Any) -> Any:
        if not options:  # from files
            read = [
                (message[0]["content"][0]["path"], message[0]["content"][1]["text"]) for message in messages
            ]
            sounds = [soundfile.read(path)[0] for path, _ in read]
            return self(text=[f"{self.audio_token}{text}" for _, text in read], audio=sounds)
        return f"ask {self.audio_token}{messages[0]['content'][1]['text']}"

    def __call__(self, *, text: list[str], audio: list[Any] | None = None, **_: Any) -> dict[str, Any]:
        sound: dict[str, Any] = {}
        if audio is not None:
            spans = []
            for samples in audio:
                count = PER_BLOCK * math.ceil(len(samples) / 16_000 / BLOCK_SECONDS)
                half = self.audio_token * (count // 2)
                spans.append(f"{half}{'2' if self.markers else ''}{half}")
            text = [line.replace(self.audio_token, span) for line, span in zip(text, spans, strict=True)]
            sound = {"input_features": torch.zeros(len(audio), 8, 20), "token_type_ids": torch.zeros(1)}
        return {**self.tokenizer(text, padding=True, return_tensors="pt"), **sound}


def fixed(folder: Path, model_type: str, **options: Any) -> Batcher:
    processor = FixedProcessor(folder, **options)
    token = processor.tokenizer.convert_tokens_to_ids(processor.audio_token)
    return Batcher(processor, SimpleNamespace(model_type=model_type, audio_token_id=token), end=2)


@pytest.mark.parametrize("model_type", ["gemma3n", "voxtral"])
def test_silence_that_a_processor_adds_carries_no_mass(tmp_path: Path, model_type: str) -> None:
    batcher = fixed(tmp_path, model_type)
    seconds = (0.5, 4.7, 29.0)
    batch = batcher.training(noise(*seconds), ["Go."] * 3, ["Ja."] * 3)
    wanted = [math.ceil(s * PER_BLOCK / BLOCK_SECONDS) for s in seconds]
    assert batch.span.sum(1).tolist() == wanted and batch.widest_span == max(wanted)
    assert (batch.input_ids == batcher.audio_token_id).sum(1).tolist() == [PER_BLOCK] * 3
    states = torch.randn(*batch.input_ids.shape, 4)
    _, mask = take_span(states, batch.span, batch.widest_span)
    assert mask.sum(1).tolist() == wanted and set(batch.sound) == {"input_features"}
    text = batcher.written(batch, ["Yes.", "No.", "It is late."], whole=True)  # silence goes with the sound
    assert not (text.input_ids == batcher.audio_token_id).any()
    for row, transcript in enumerate(("Yes.", "No.", "It is late.")):
        assert batcher.tokenizer.decode(text.input_ids[row][text.span[row]]) == transcript
    assert [row.target for row in text.rows()] == [row.target for row in batch.rows()]
    if model_type == "voxtral":  # whose processor reads files alone: a text stands as in a clip's row
        whole = batcher.training(["Yes.", "No.", "It is late."], ["Go."] * 3, ["Ja."] * 3)
        assert whole.rows() == text.rows() and not whole.sound


def test_markers_inside_the_sound_carry_no_mass_and_go_with_it(tmp_path: Path) -> None:
    batcher = fixed(tmp_path, "moss_transcribe_diarize", markers=True)
    batch = batcher.training(noise(1.0, 3.0), ["Go."] * 2, ["Ja."] * 2)
    assert batch.span.sum(1).tolist() == [PER_BLOCK] * 2 == [batch.widest_span] * 2
    assert all(len(row.holes) == 1 for row in batch.rows())
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **batch.sound}
    assert Batch.of_inputs(inputs, batcher.audio_token_id, batch.labels).rows() == batch.rows()
    text = batcher.written(batch, ["Yes.", "No."])
    assert [batcher.tokenizer.decode(row.prompt) for row in text.rows()] == ["ask Yes.", "ask No."]


def loaded(folder: Path) -> Any:
    config = AutoConfig.from_pretrained(folder)
    return load_whole(auto_class(config), folder, config, Options())


def with_lora(name: str, targets: list[str]) -> Any:
    """A class's model with a LoRA that changes what it says."""
    model = CLASSES[name].model(name)
    torch.manual_seed(0)
    model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    return model.eval()


@pytest.mark.parametrize("name", ["granite_speech", "phi4_multimodal"])
def test_lora_of_the_checkpoint_is_on_in_both_branches(name: str, tmp_path: Path) -> None:
    granite = name == "granite_speech"
    model = with_lora(name, ["q_proj"] if granite else ["qkv_proj"])
    base = CLASSES[name].model(name)
    base.config.has_lora_adapter = granite
    base.save_pretrained(str(tmp_path))
    PreTrainedModel.save_pretrained(
        model, str(tmp_path if granite else tmp_path / "speech-lora")
    )  # LoRA alone
    bare = describe(str(tmp_path), None, tmp_path)["fingerprint"]
    again = loaded(tmp_path)
    speech_class(name).prepare(again, tmp_path)  # type: ignore[misc]
    assert not any(is_lora(n) for n, _ in again.named_parameters())
    merged, wanted = SpeechLM(again), SpeechLM(model)
    batch, text = batch_of(merged, [0, 1]), written_of([0, 1])
    without = logits(SpeechLM(CLASSES[name].model(name)), batch)
    for _ in range(2):  # a generation without sound changes nothing
        torch.testing.assert_close(logits(merged, batch), logits(wanted, batch), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(logits(merged, batch), without, atol=1e-4)
        merged.generate(text, max_new_tokens=1)
    for layer, states in merged.text_states(text, [2]).items():
        torch.testing.assert_close(states, wanted.text_states(text, [layer])[layer], atol=1e-5, rtol=1e-4)
    adapter = next(tmp_path.rglob("adapter_model.safetensors"))
    adapter.unlink()
    assert describe(str(tmp_path), None, tmp_path)["fingerprint"] != bare  # it is part of the base


def test_lora_goes_into_the_blocks_of_the_decoder_alone() -> None:
    """Phi-4's decoder holds its encoders too, with layers of the same names."""
    model = CLASSES["phi4_multimodal"].model("phi4_multimodal")
    targets = ["qkv_proj", "o_proj", "down_proj"]
    speech_llm = adapted(model, "phi4_multimodal", targets=targets)
    found = {name for name, _ in speech_llm.model.named_parameters() if is_lora(name)}
    assert all(name.startswith("model.layers.") for name in found) and len(found) == 3 * 3 * 2
    assert not any(is_lora(name) for name, _ in speech_llm.keeper.merge().named_parameters())


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["qkv_proj", "k_prj"]])
def test_a_target_of_lora_that_no_block_has_is_refused(targets: list[str]) -> None:
    model = CLASSES["phi4_multimodal"].model("phi4_multimodal")
    with pytest.raises(ConfigError, match=f"{targets[-1]}: no layer(.|\n)*gate_up_proj, o_proj, qkv_proj"):
        adapted(model, "phi4_multimodal", targets=targets)


def test_without_targets_the_projector_is_trained_alone() -> None:
    speech_llm = adapted(CLASSES["voxtral"].model("voxtral"), "voxtral", targets=[])
    assert all("projector" in name for name in speech_llm.keeper.trainable_state_dict())


def test_of_qwen_omni_the_thinker_is_loaded(tmp_path: Path) -> None:
    name = "qwen2_5_omni_thinker"
    thinker = CLASSES[name].model(name)
    thinker.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    weights = tmp_path / "model.safetensors"
    saved = {f"thinker.{n}": tensor for n, tensor in load_file(weights).items()}  # as beside a talker
    save_file(saved, weights, metadata={"format": "pt"})
    whole = AutoConfig.for_model("qwen2_5_omni", thinker_config=config)
    part = speech_class("qwen2_5_omni").part
    found = getattr(whole, str(part))
    again = load_whole(auto_class(found), tmp_path, found, Options())
    assert type(again) is type(thinker)
    speech_llm = SpeechLM(thinker)
    batch = batch_of(speech_llm, [0, 1])
    assert torch.equal(logits(SpeechLM(again), batch), logits(speech_llm, batch))


def test_noise_in_an_encoder_is_off() -> None:
    assert speech_class("vibevoice_asr").forward_options == {"sample": False}
