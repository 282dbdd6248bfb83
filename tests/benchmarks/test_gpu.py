"""The GPU benchmark on a CPU, tiny: every measurement fills every field with a finite number, once."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import flops  # noqa: E402
import gpu  # noqa: E402
import gpu_measures  # noqa: E402
import gpu_wheels  # noqa: E402
import step  # noqa: E402

PART = {"speech_encoder", "audio_encoder", "qformer", "backbone", "lora", "head", "text_branch"}
VARIANT = {
    "milliseconds", "tokens_per_second", "flops", "flops_by_part", "flop_utilisation", "share_of_matrix_rate",
    "peak_memory_bytes", "host_synchronisations",
}  # fmt: skip
JOINT = {
    "batch", "tokens_per_row", "tokens", "targets", "blocks", "variants", "aista_over_base",
    "obvious_over_aista", "memory_aista_over_base",
}  # fmt: skip
FIELDS = {
    "joint_unpadded": JOINT,
    "joint_padded": JOINT,
    "selection": {
        "pairs", "layers", "seconds", "states_seconds", "ranking_seconds", "mean_mrr",
        "synthetic_layer_seconds", "synthetic_layer_on_device_seconds",
    },
    "translation": {"batch_1", "batch_8", "batch_32"},
    "encoder_features": {
        "batch", "frames_per_second", "audio_seconds_per_second", "host_audio_seconds_per_second",
        "peak_memory_bytes",
    },
    "step_profile": {"batch", "seconds", "top"},
    "gpu_tests": {"passed", "failed", "skipped", "seconds"},
    "switches": {
        "batch", "default_milliseconds", "flash_attention_milliseconds", "no_flash_attention_milliseconds",
        "compile_seconds", "compiled_blocks_milliseconds",
    },
    "sharded": {"blocks", "plain_milliseconds", "sharded_milliseconds"},
    "training": {"steps", "steps_per_second", "clips_per_second", "first_loss", "last_loss"},
}  # fmt: skip


def run(folder: Path) -> dict[str, Any]:
    """Run the command and read what it wrote."""
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--tiny", "--minutes", "60"]
    done = subprocess.run([*command, "--output", str(folder)], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "gpu.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    run(folder)
    return folder


def numbers(value: Any) -> Iterator[float]:
    """Every number of nested figures; what is neither a number nor a name is an error."""
    if isinstance(value, dict):
        for each in value.values():
            yield from numbers(each)
    elif isinstance(value, list):
        for each in value:
            yield from numbers(each)
    else:
        assert isinstance(value, int | float | str), value
        if not isinstance(value, str):
            yield value


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_every_field_is_filled(folder: Path) -> None:
    rows = json.loads((folder / "gpu.json").read_text())
    assert {"date", "commit", "card", "memory_gib", "torch", "peak_flops", "peak_source"} <= rows.keys()
    found = rows["measurements"]
    assert list(found) == list(FIELDS) == list(gpu_measures.MEASUREMENTS)
    for name, fields in FIELDS.items():
        row = found[name]
        assert row["status"] == "done", row["notes"]
        assert row["figures"].keys() == fields, name
        values = list(numbers(row["figures"]))
        assert all(math.isfinite(value) for value in values)
        assert any(value > 0 for value in values), name
    for kind in ("joint_unpadded", "joint_padded"):
        variants = found[kind]["figures"]["variants"]
        assert variants.keys() == {"base", "aista", "obvious", "aista_cached"}
        assert all(row.keys() == VARIANT and row["flops_by_part"].keys() == PART for row in variants.values())
    per_batch = {"batch", "utterances_per_second", "real_time_factor", "new_tokens_per_second"}
    assert all(row.keys() == per_batch for row in found["translation"]["figures"].values())
    top = found["step_profile"]["figures"]["top"]
    assert len(top) == 10
    assert all(row.keys() == {"operation", "calls", "seconds", "share"} for row in top)
    assert found["gpu_tests"]["figures"]["failed"] == found["gpu_tests"]["figures"]["skipped"] == 0
    assert found["selection"]["figures"]["layers"] == 3


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_a_second_call_does_what_is_missing(folder: Path) -> None:
    rows = json.loads((folder / "gpu.json").read_text())
    taken = rows["measurements"].pop("encoder_features")
    rows["measurements"]["step_profile"]["key"]["card"] = "another card"
    gpu.write(folder / "gpu.json", rows)
    again = run(folder)["measurements"]
    assert again["encoder_features"]["figures"] != taken["figures"]
    assert again["step_profile"]["key"] == taken["key"]
    others = set(FIELDS) - {"encoder_features", "step_profile"}
    assert all(again[name] == rows["measurements"][name] for name in others)


@pytest.mark.parametrize("ends", [False, True])
def test_a_measurement_that_hangs_or_dies_is_ended_and_said(tmp_path: Path, ends: bool) -> None:
    code = "import os; os.abort()" if ends else "import time; time.sleep(60)"
    gpu.write(tmp_path / "running.json", {"name": "selection", "until": time.time() + (60 if ends else -5)})
    worker = subprocess.Popen([sys.executable, "-c", code])
    try:
        returned = gpu._attend(worker, tmp_path, time.time() + 60)
    finally:
        worker.kill()
        worker.wait()
    assert returned != 0
    row = gpu.read(tmp_path / "gpu.json")["measurements"]["selection"]
    assert row["status"] == "failed"
    assert ("died" if ends else "stopped") in row["notes"][0]


@pytest.mark.slow
def test_sizes_shrink_to_the_memory() -> None:
    config, sizes = gpu_measures.preset("qwen2-7b"), gpu_measures.Sizes()
    _, whole, said = gpu_measures.fitting(config, sizes, 80 * 2**30)
    assert (whole.batch, said) == (32, [])
    _, less, said = gpu_measures.fitting(config, sizes, 24 * 2**30)
    assert 1 <= less.batch < 32
    assert "batch 32" in said[0]
    smaller, _, said = gpu_measures.fitting(config, sizes, 12 * 2**30)
    assert smaller.text_config.num_hidden_layers < 28
    assert "blocks" in said[-1]


@pytest.mark.slow
def test_out_of_memory_halves_the_batch() -> None:
    bench = gpu_measures.Bench(tiny=True)

    def work(batch: int) -> dict[str, int]:
        if batch > 3:
            raise torch.OutOfMemoryError("too much")
        return {"seen": batch}

    assert bench.halving(work, 8) == {"batch": 2, "seen": 2}
    assert bench.notes == ["batch 8 -> 4: out of memory", "batch 4 -> 2: out of memory"]
    with pytest.raises(torch.OutOfMemoryError):
        bench.halving(lambda _: work(9), 1)


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA A10G", None),
        ("NVIDIA L40S", 362e12),
        ("CPU x86_64", None),
    ],
)
def test_peaks_by_name(card: str, peak: float | None) -> None:
    assert flops.peak_flops(card) == peak


def test_every_turn_has_all_variants_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def variant(name: str) -> Any:
        def loss(model: Any, batch: Any) -> torch.Tensor:
            ran.append(name)
            return sum(p.sum() for p in model.parameters() if p.requires_grad)

        return lambda model, layers: partial(loss, model)

    monkeypatch.setattr(step, "VARIANTS", {name: variant(name) for name in "abc"})
    step.turns(step.Size(layers=1, hidden=64, batch=1, seconds=1.0, vocabulary=100), "abc", repeats=11)
    turns = ["".join(ran[i : i + 3]) for i in range(0, len(ran), 3)]
    assert len(turns) == 12 and all(sorted(turn) == list("abc") for turn in turns)
    assert len(set(turns)) > 3


@pytest.mark.parametrize("layers", [(), (0, 1), (2,)])
def test_formula_against_torchs_counter(layers: tuple[int, ...]) -> None:
    """Forward and backward. torch counts whole squares of causal attention, so widths are large."""
    config = gpu_measures.tiny_config()
    config.text_config.hidden_size, config.text_config.intermediate_size = 256, 512
    model = gpu_measures.random_model(config, torch.device("cpu"), torch.float32)
    made = step.batch_of(step.Size(batch=2, seconds=1.0, vocabulary=2000), config)
    batch = step.from_audio(made, config)
    make = step.aista_step if layers else step.base_step
    loss = make(model, layers)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss(dict(batch)).backward()
    expected = flops.step_flops(config, gpu_measures.lengths_of(batch), layers).total
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.03)


def test_wheels_follow_imports() -> None:
    names = gpu_wheels.foreign_imports(ROOT / start for start in gpu_wheels.STARTS)
    assert {"torch", "transformers", "numba", "ot", "pydantic", "soundfile"} <= names
    assert not {"aista", "step", "fastapi", "os"} & names
    needs = gpu_wheels.with_needs(["pydantic"], {"python_version": "3.12"})
    assert {"pydantic", "pydantic-core", "typing-extensions"} <= needs.keys()
