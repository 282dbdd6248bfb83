"""What alignment adds to a training step, and how step and selection grow.

    python benchmarks/step.py                  everything, about an hour on two cores
    python benchmarks/step.py --only ratio     the step of 12 layers x 512, against base and the obvious way
    python benchmarks/step.py --only features  a step from audio against one from cached features
    python benchmarks/step.py --only switches  attention, checkpointing, bfloat16, compiled blocks
    python benchmarks/step.py --only growth    over sequence length, layers, batch
    python benchmarks/step.py --only selection over the number of pairs

A Qwen2-shaped backbone with random weights and 32,000 tokens, LoRA r 8 on q and v, a window Q-Former of
2 x 256 on cached features of width 512; float32; forward, backward and AdamW. Lengths are drawn as in speech
corpora: clips of 2 to 15 s, 2.7 transcript tokens and 3 target tokens a second, an instruction of 24 tokens.
Variants take turns in one process; medians are compared. Times are wall-clock; ``cpu`` are CPU seconds of the
process, which other load disturbs less.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin would count as CPU time

import numpy as np
import ot
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import Blip2QFormerConfig, Qwen2Config, WhisperConfig

from aista.alignment import alignment
from aista.audio.signal import num_fbank_frames
from aista.config import TrainSettings
from aista.model import AistaConfig, AistaForConditionalGeneration
from aista.retrieval import exact_ranks
from aista.speech_llm import Batch, Row
from aista.training.objective import SpeechTextObjective
from aista.training.stages import speed_up

VOCABULARY, FEATURES = 32_000, 512
PREFIX, SUFFIX = 6, 24


@dataclass(frozen=True)
class Size:
    """What a step is measured at; ``seconds`` fixes every clip's length, else lengths are drawn."""

    layers: int = 12
    hidden: int = 512
    batch: int = 16
    seconds: float | None = None
    vocabulary: int = VOCABULARY


def model_of(size: Size, encoder_layers: int = 1) -> AistaForConditionalGeneration:
    """A speech LLM with random weights."""
    torch.manual_seed(0)
    width = size.hidden
    heads: dict[str, Any] = {"num_attention_heads": width // 64, "num_key_value_heads": max(1, width // 256)}
    shape: dict[str, Any] = {"num_hidden_layers": size.layers, "hidden_size": width}
    text = Qwen2Config(**shape, **heads, intermediate_size=4 * width, vocab_size=size.vocabulary)
    speech = WhisperConfig(
        d_model=FEATURES, encoder_layers=encoder_layers, encoder_attention_heads=8,
        encoder_ffn_dim=4 * FEATURES, decoder_layers=1, vocab_size=64, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    qformer = Blip2QFormerConfig(
        hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=1024,
        cross_attention_frequency=1, encoder_hidden_size=FEATURES,
    )  # fmt: skip
    return AistaForConditionalGeneration(
        AistaConfig(speech_config=speech, text_config=text, qformer_config=qformer)
    )


def batch_of(size: Size, config: AistaConfig, seed: int = 0) -> dict[str, Any]:
    """A batch as the collator gives it, cached features and both branches."""
    rng = np.random.default_rng(seed)
    drawn = np.clip(rng.lognormal(math.log(5.0), 0.45, size.batch), 2.0, 15.0)
    clips = drawn if size.seconds is None else np.full(size.batch, size.seconds)
    samples = [int(16_000 * clip) for clip in clips]

    def words(count: float) -> list[int]:
        return rng.integers(10, size.vocabulary, max(3, round(count))).tolist()

    rows, written = [], []
    for clip, number in zip(clips, samples, strict=True):
        tokens, prefix = config.tokens_for(number), words(PREFIX)
        prompt = prefix + [config.audio_token_id] * tokens + words(SUFFIX)
        rows.append(Row(prompt, PREFIX, PREFIX + tokens, words(3.0 * clip)))
        transcript = prefix + words(2.7 * clip)
        written.append(Row(transcript, PREFIX, len(transcript), []))
    frames = max(config.frames_for(number) for number in samples)
    sound = {"speech_features": torch.randn(size.batch, frames, config.feature_dim), "num_samples": samples}
    return {"speech": Batch.of_rows(rows, 0, "right", sound), "text": Batch.of_rows(written, 0, "right")}


def from_audio(batch: dict[str, Any], config: AistaConfig) -> dict[str, Any]:
    """Put what the frozen encoders take (noise) in the place of what they gave."""
    samples, speech = batch["speech"].sound["num_samples"], config.speech_config
    mel = torch.randn(len(samples), speech.num_mel_bins, 2 * speech.max_source_positions)
    sound = {"num_samples": samples, "input_features": mel}
    if config.audio_config is not None:
        frames = [num_fbank_frames(max(number, config.audio_config.min_samples)) for number in samples]
        sound["fbank"] = torch.randn(len(samples), max(frames), config.audio_config.num_mel_bins)
        sound["fbank_mask"] = torch.arange(max(frames))[None] < torch.tensor(frames)[:, None]
    return {**batch, "speech": replace(batch["speech"], sound=sound)}


# ---- the variants ----


def base_step(model: AistaForConditionalGeneration, layers: Iterable[int]) -> Callable[[dict], Tensor]:
    """Cross-entropy alone."""
    objective = SpeechTextObjective(model, alignment("none", ())).train()
    return lambda batch: objective(**batch).loss


def aista_step(model: AistaForConditionalGeneration, layers: Iterable[int]) -> Callable[[dict], Tensor]:
    """Eq. 6 as this library computes it."""
    objective = SpeechTextObjective(model, alignment("wasserstein", tuple(layers)), 0.99).train()
    return lambda batch: objective(**batch).loss


def obvious_step(model: AistaForConditionalGeneration, layers: Iterable[int]) -> Callable[[dict], Tensor]:
    """Eq. 6 as one would write it first.

    All hidden states of two whole forward passes, logits of every place, POT's ``emd2`` in a loop over
    pairs and layers.
    """

    def loss(batch: dict[str, Any]) -> Tensor:
        model.train()
        heard, text = batch["speech"], batch["text"]
        spoken = model(heard.input_ids, heard.attention_mask, output_hidden_states=True, **heard.sound)
        labels = heard.labels[:, 1:].flatten()
        ce = torch.nn.functional.cross_entropy(spoken.logits[:, :-1].flatten(0, 1).float(), labels)
        with torch.no_grad():
            written = model.backbone(text.input_ids, text.attention_mask, output_hidden_states=True)
        distances = []
        for layer in layers:
            for row in range(heard.size):
                speech = spoken.hidden_states[layer][row][heard.span[row]]
                texts = written.hidden_states[layer][row][text.span[row]]
                with torch.autocast(speech.device.type, enabled=False):
                    cost = ot.dist(speech.float(), texts.float())
                masses = (cost.new_full((n,), 1 / n) for n in cost.shape)
                distances.append(ot.emd2(*masses, cost))
        return 0.99 * ce + 0.01 * torch.stack(distances).mean()

    return loss


PARTS = ("ratio", "features", "switches", "growth", "selection")
VARIANTS = {"base": base_step, "aista": aista_step, "obvious": obvious_step}


# ---- measuring ----


def turns(
    size: Size, names: Iterable[str], repeats: int, layers: tuple[int, ...] = (0, 1)
) -> dict[str, dict[str, float]]:
    """Time the variants in turns, each in a drawn order, on the same model and batches.

    Returns:
        Medians of wall and CPU seconds of a step.
    """
    model = model_of(size)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    losses = {name: VARIANTS[name](model, layers) for name in names}
    batches = [batch_of(size, model.config, seed) for seed in range(3)]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in losses}
    for repeat in range(-1, repeats):
        for name in np.random.default_rng(repeat + 1).permutation(list(losses)).tolist():
            batch = dict(batches[repeat % len(batches)])
            wall, cpu = time.perf_counter(), time.process_time()
            losses[name](batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            if repeat >= 0:  # the first turn warms up
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: {
            "seconds": statistics.median(wall for wall, _ in found),
            "cpu_seconds": statistics.median(cpu for _, cpu in found),
            "cpu_spread": statistics.quantiles([cpu for _, cpu in found], n=4)[2]
            - statistics.quantiles([cpu for _, cpu in found], n=4)[0],
        }
        for name, found in times.items()
    }


def peak_bytes(size: Size, name: str, layers: tuple[int, ...] = (0, 1)) -> dict[str, int]:
    """Return the most bytes of tensors that a step holds beyond the frozen and trained weights, and those."""
    model = model_of(size)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    loss, batch = VARIANTS[name](model, layers), batch_of(size, model.config)

    def step() -> None:
        loss(dict(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return {"step": peak_of(step), "weights": weights}


def peak_of(step: Callable[[], None]) -> int:
    """Return the most bytes that were allocated at once while something ran, by torch's own account."""
    with profile(profile_memory=True, activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        step()
    assert seen.profiler is not None and seen.profiler.kineto_results is not None
    changes = [
        (event.start_ns(), event.nbytes())
        for event in seen.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    return int(np.cumsum([number for _, number in sorted(changes)]).max())


def ratio(repeats: int) -> dict[str, Any]:
    """The step the goals are set for."""
    size = Size()
    times = turns(size, VARIANTS, repeats)
    print(times)
    return {"times": times, "memory": {name: peak_bytes(size, name) for name in VARIANTS}}


def features(repeats: int) -> dict[str, Any]:
    """A step from audio and the same step from cached features, and the time inside the encoder.

    A Whisper encoder of 6 layers x 512 that hears 30 s at once, as Whisper does; batches of 4.
    """
    size = Size(batch=4)
    model = model_of(size, encoder_layers=6)
    batch = batch_of(size, model.config)
    fresh = from_audio(batch, model.config)
    loss = aista_step(model, (0, 1))
    spent: list[float] = []
    encode = model.encode_audio

    def timed(*args: Any, **kwargs: Any) -> Tensor:
        start = time.process_time()
        states = encode(*args, **kwargs)
        spent.append(time.process_time() - start)
        return states

    model.encode_audio = timed  # type: ignore[method-assign]
    times: dict[str, list[float]] = {"audio": [], "cached": []}
    for _ in range(repeats + 1):
        for name, given in (("audio", fresh), ("cached", batch)):
            start = time.process_time()
            loss(dict(given)).backward()
            times[name].append(time.process_time() - start)
    found = {name: statistics.median(each[1:]) for name, each in times.items()}
    found["encoder"] = statistics.median(spent[1:])
    found["saved_share_of_encoder"] = (found["audio"] - found["cached"]) / found["encoder"]
    return {**found, "encoder_calls_when_cached": len(spent) - len(times["audio"])}


def switches(repeats: int) -> dict[str, dict[str, float]]:
    """The base step under transformers' and torch's own switches."""
    size = Size(layers=6)
    found = {}
    for name in (
        "plain",
        "eager attention",
        "activation checkpointing",
        "bfloat16 autocast",
        "compiled blocks",
    ):
        model = model_of(size)
        speed_up(model, TrainSettings(
            attn_implementation="eager" if name.startswith("eager") else None,
            compile_blocks=name.startswith("compiled"),
        ))  # fmt: skip
        if name.startswith("activation"):
            model.activation_checkpointing_enable()
        loss, batch = base_step(model, ()), batch_of(size, model.config)

        def step(loss: Any = loss, batch: Any = batch, half: bool = name.startswith("bfloat16")) -> None:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                value = loss(dict(batch))
            value.backward()

        step()
        times = []
        for _ in range(repeats):
            start = time.process_time()
            step()
            times.append(time.process_time() - start)
        found[name] = {"cpu_seconds": statistics.median(times), "peak_bytes": peak_of(step)}
        print(name, found[name])
    return found


def growth(repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Step time and memory over sequence length, layers and batch, around 6 layers x 256, batch 8, 5 s."""
    start = Size(layers=6, hidden=256, batch=8, seconds=5.0, vocabulary=8_000)
    axes = {
        "seconds": [replace(start, seconds=s) for s in (2.5, 5.0, 10.0, 20.0, 30.0)],
        "layers": [replace(start, layers=n) for n in (2, 4, 8, 16)],
        "batch": [replace(start, batch=n) for n in (2, 4, 8, 16)],
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for axis, sizes in axes.items():
        found[axis] = []
        for size in sizes:
            times = turns(size, ("base", "aista"), repeats)
            memory = {name: peak_bytes(size, name)["step"] for name in ("base", "aista")}
            found[axis].append({axis: getattr(size, axis), "times": times, "memory": memory})
            print(
                axis, getattr(size, axis), {n: round(t["cpu_seconds"], 3) for n, t in times.items()}, memory
            )
    return found


def synthetic_states(count: int, dim: int) -> tuple[list[Tensor], list[Tensor]]:
    """Draw states (tokens, dim) of speech and of text: a Zipf vocabulary, and noise on the speech."""
    rng = np.random.default_rng(0)
    scale = (np.arange(1, dim + 1) ** -0.35).astype(np.float32)
    scale /= np.sqrt((scale**2).sum())
    vocabulary = rng.standard_normal((6000, dim), dtype=np.float32) * scale
    odds = 1 / np.arange(1, 6001)
    speech, text = [], []
    for _ in range(count):
        m = int(np.clip(rng.lognormal(math.log(14), 0.45), 4, 45))
        n = int(np.clip(rng.lognormal(math.log(16), 0.45), 6, 45))
        said = vocabulary[rng.choice(6000, m, p=odds / odds.sum())]
        text.append(torch.from_numpy(said))
        noise = rng.standard_normal((n, dim), dtype=np.float32) * scale
        speech.append(torch.from_numpy(0.3 * said[np.arange(n) * m // n] + 0.95 * noise))
    return speech, text


def selection(counts: Iterable[int], dim: int = 512) -> list[dict[str, float]]:
    """Seconds to rank one layer of synthetic states exactly, over the number of pairs."""
    speech, text = synthetic_states(max(counts), dim)
    rows: list[dict[str, float]] = []
    exact_ranks(speech[:20], text[:20])  # compiles
    for count in counts:
        start, cpu = time.perf_counter(), time.process_time()
        ranking = exact_ranks(speech[:count], text[:count])
        row = {
            "pairs": count,
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu,
        }
        rows.append(row | {"mrr": float((1 / ranking.ranks).mean())})
        print(rows[-1])
    return rows


# ---- telling ----


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw time and memory over each axis, and selection over pairs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.6), layout="constrained")
    panels = figure.subplots(2, 4)
    titles = {"seconds": "clip length (s)", "layers": "layers", "batch": "batch"}
    for column, (axis, title) in enumerate(titles.items()):
        rows = results["growth"][axis]
        xs = [row[axis] for row in rows]
        for name, colour in (("base", "#888888"), ("aista", "#c8553d")):
            panels[0, column].plot(
                xs, [r["times"][name]["cpu_seconds"] for r in rows], "o-", color=colour, label=name
            )
            panels[1, column].plot(
                xs, [r["memory"][name] / 1e6 for r in rows], "o-", color=colour, label=name
            )
        panels[0, column].set(ylabel="CPU s a step", xlabel=title, ylim=(0, None))
        panels[1, column].set(ylabel="peak MB beyond weights", xlabel=title, ylim=(0, None))
        panels[0, column].legend()
    rows = results["selection"]
    panels[0, 3].plot([r["pairs"] for r in rows], [r["cpu_seconds"] for r in rows], "o-", color="#3b6ea5")
    panels[0, 3].set(xlabel="pairs", ylabel="CPU s a layer, exact ranks", ylim=(0, None))
    panels[1, 3].axis("off")
    figure.savefig(path, dpi=130)


def tell(results: dict[str, Any]) -> None:
    """Print the ratios."""
    if "ratio" in results:
        times, memory = results["ratio"]["times"], results["ratio"]["memory"]
        for name, row in times.items():
            held = memory[name]
            print(
                f"{name:8s} {row['seconds']:.3f} s, {row['cpu_seconds']:.3f} CPU s (quartiles "
                f"{row['cpu_spread']:.3f} apart), {held['step'] / 1e6:.0f} MB beyond "
                f"{held['weights'] / 1e6:.0f} MB of weights"
            )
        for clock in ("seconds", "cpu_seconds"):
            base, own, obvious = (times[name][clock] for name in ("base", "aista", "obvious"))
            print(f"{clock}: aista / base {own / base:.3f}, obvious / aista {obvious / own:.2f}")
        whole = {name: sum(memory[name].values()) for name in memory}
        print(f"memory: aista / base {whole['aista'] / whole['base']:.3f} with weights, "
              f"{memory['aista']['step'] / memory['base']['step']:.3f} without")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file to add results to, and a PNG beside it.")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {}
    if options.out and options.out.exists():
        results = json.loads(options.out.read_text())
    results |= {"date": str(date.today()), "torch": torch.__version__, "machine": platform.processor()}
    if options.only in (None, "ratio"):
        results["ratio"] = {**ratio(options.repeats), "threads": options.threads}
        tell({"ratio": results["ratio"]})
    if options.only in (None, "features"):
        results["features"] = features(max(3, options.repeats // 4))
        print(results["features"])
    if options.only in (None, "switches"):
        results["switches"] = switches(max(3, options.repeats // 4))
    if options.only in (None, "growth"):
        results["growth"] = growth(max(3, options.repeats // 4))
    if options.only in (None, "selection"):
        results["selection"] = selection((200, 500, 1000, 2000))
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))
        if {"growth", "selection"} <= results.keys():
            plot(results, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
