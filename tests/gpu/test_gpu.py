"""A GPU computes what the CPU computes, and a training step never waits for it: ``pytest -m gpu``.

Without a GPU they skip. ``AISTA_GPU_TESTS_ON=cpu`` compares the CPU with itself: it shows no equality, but
that every line runs.
"""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import gpu_measures
import step
from gpu_measures import counting_synchronisations, joint_batch, on_device, random_model, tiny_config

from aista.inference.translating import GenerationSettings, Request
from aista.inference.translator import Translator
from aista.retrieval import exact_ranks
from aista.speech_llm import SpeechLM

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
LAYERS = (0, 1)


@pytest.fixture(scope="module")
def device() -> torch.device:
    chosen = os.environ.get("AISTA_GPU_TESTS_ON", "cuda")
    if chosen == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(chosen)


@pytest.fixture(autouse=True)
def full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # matrix products have it off by default


@pytest.fixture(scope="module")
def models(device: torch.device) -> tuple[Any, Any]:
    """The same model in float32 on the CPU and on the device, without dropout; LoRA does something."""
    model = random_model(tiny_config(), CPU, torch.float32)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model, copy.deepcopy(model).to(device)


@pytest.fixture(scope="module")
def bench() -> gpu_measures.Bench:
    made = gpu_measures.Bench(tiny=True)
    made.device = CPU
    return made


@pytest.fixture
def batches(bench: gpu_measures.Bench, models: tuple[Any, Any], device: torch.device) -> tuple[dict, dict]:
    torch.manual_seed(0)
    batch = joint_batch(bench, models[0], 3)
    return batch, on_device(batch, device)


def test_forward(models: tuple[Any, Any], batches: tuple[dict, dict]) -> None:
    found = []
    for model, batch in zip(models, batches, strict=True):
        with torch.no_grad():
            found.append(SpeechLM(model.eval()).predict(batch["speech"], (0, 1, 2), logits="all"))
    here, there = found
    assert here.logits.std() > 0
    torch.testing.assert_close(there.logits.cpu(), here.logits, atol=1e-4, rtol=1e-4)
    for layer in (0, 1, 2):
        torch.testing.assert_close(there.states[layer].cpu(), here.states[layer], atol=1e-4, rtol=1e-4)


def gradients(model: Any, batch: dict, precision: torch.dtype | None = None) -> tuple[float, dict[str, Any]]:
    """The loss of Eq. 6 and the gradient of everything trained, on the CPU."""
    model.zero_grad()
    kind = model.device.type
    with torch.autocast(kind, dtype=precision or torch.bfloat16, enabled=precision is not None):
        loss = step.aista_step(model, LAYERS)(dict(batch))
    loss.backward()
    return loss.item(), {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients(models: tuple[Any, Any], batches: tuple[dict, dict]) -> None:
    (here, mine), (there, theirs) = (gradients(*each) for each in zip(models, batches, strict=True))
    assert there == pytest.approx(here, rel=1e-5)
    assert mine.keys() == theirs.keys() == {n for n, p in models[0].named_parameters() if p.requires_grad}
    for name, gradient in mine.items():
        torch.testing.assert_close(theirs[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_loss_and_gradients_in_bfloat16(models: tuple[Any, Any], batches: tuple[dict, dict]) -> None:
    """Autocast loses digits, not the direction: against float32 on the CPU."""
    here, mine = gradients(models[0], batches[0])
    there, theirs = gradients(models[1], batches[1], torch.bfloat16)
    assert there == pytest.approx(here, rel=0.02)
    whole, other = (torch.cat([row[name].flatten() for name in mine]) for row in (mine, theirs))
    assert torch.nn.functional.cosine_similarity(whole, other, dim=0) > 0.99
    assert float(other.norm()) == pytest.approx(float(whole.norm()), rel=0.05)


def test_generation(bench: gpu_measures.Bench, models: tuple[Any, Any]) -> None:
    clips = [clip[:length] for clip, length in zip(bench.noise(3), (16_000, 9_000, 12_345), strict=True)]
    settings = GenerationSettings(max_new_tokens=8, num_beams=2)
    answers = []
    for model in models:
        translator = Translator(model.eval(), bench.processor(), generation=settings)
        answers.append(translator.answer(clips, Request("st", "en", "zh")))
    assert answers[0] == answers[1]
    assert any(answer.text for answer in answers[0])


@pytest.mark.parametrize("on_device_bounds", [True, False])
def test_exact_ranks(device: torch.device, on_device_bounds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    speech, text = step.synthetic_states(40, 64)
    here = exact_ranks(speech, text)
    monkeypatch.setattr("aista.retrieval.cascade.bounds_on_device", lambda tokens: on_device_bounds)
    there = exact_ranks(*([states.to(device) for states in side] for side in (speech, text)))
    np.testing.assert_array_equal(there.ranks, here.ranks)
    np.testing.assert_allclose(there.gold, here.gold, rtol=1e-4)
    assert there.num_ties == here.num_ties


@pytest.mark.parametrize(("variant", "most"), [("base", 0), ("aista", 1)])
def test_no_step_waits_for_the_device(
    models: tuple[Any, Any], batches: tuple[dict, dict], device: torch.device, variant: str, most: int
) -> None:
    """Of our own code only the exact solver, which runs on the host, may fetch its costs, once."""
    loss = step.VARIANTS[variant](models[1], LAYERS)
    loss(dict(batches[1])).backward()
    with counting_synchronisations(device) as waits:
        loss(dict(batches[1])).backward()
    own = [place for place in waits if f"{os.sep}aista{os.sep}" in place]
    assert len(own) <= most, waits
    assert all(f"{os.sep}ot{os.sep}" in place for place in own), waits
