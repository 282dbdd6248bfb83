"""The measurements of ``gpu.py``, in order of worth. Each takes a ``Bench`` and returns its figures."""

from __future__ import annotations

import gc
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import step
import torch
import torch.distributed
from flops import Lengths, peak_flops, step_flops
from torch.autograd import DeviceType
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    Blip2QFormerConfig,
    Qwen2Config,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from aista.audio.files import write_audio
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.config import JointSettings, SelectSettings, TrainSettings
from aista.data.manifest import Utterance, write_manifest
from aista.inference.translating import GenerationSettings, Request
from aista.inference.translator import Translator
from aista.model import AistaConfig, AistaForConditionalGeneration, AistaProcessor
from aista.model.bases import load_tokenizer, locate
from aista.model.beats import BeatsModel
from aista.model.configuration import BeatsConfig
from aista.model.estimate import GIB, estimate, preset
from aista.retrieval import exact_ranks
from aista.selection.hidden_states import Extraction
from aista.selection.select import rank_layers
from aista.speech_llm import SpeechLM
from aista.training.stages import joint, speed_up

ROOT = Path(__file__).resolve().parents[1]
UNPADDED, PADDED = "voiced", "padded"  # speech_tokens
LAYERS = (0, 1)  # those that the paper aligns
WORDS = [
    "the",
    "old",
    "teacher",
    "reads",
    "a",
    "red",
    "book",
    "near",
    "her",
    "house",
    "while",
    "birds",
    "sing",
]


@dataclass(frozen=True)
class Sizes:
    """What is measured at: the paper's sizes, or tiny ones."""

    batch: int = 32
    clip_seconds: float = 5.0
    repeats: int = 10
    pairs: int = 1000
    longest_pair_seconds: float = 15.0
    translated: tuple[int, ...] = (1, 8, 32)
    new_tokens: int = 24
    sharded_blocks: int = 4
    training_steps: int = 30
    training_batch: int = 16
    matrix: int = 8192


TINY = Sizes(
    batch=2, clip_seconds=1.0, repeats=2, pairs=6, longest_pair_seconds=2.0, new_tokens=2, sharded_blocks=1,
    training_steps=2, training_batch=2, matrix=128,
)  # fmt: skip


def tiny_config() -> AistaConfig:
    """The same parts as the paper's set-up, each of the same class and as small as it gets."""
    speech = WhisperConfig(
        d_model=32, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=64, decoder_layers=1,
        max_source_positions=102, vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    )  # fmt: skip
    audio = BeatsConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, patch_embed_dim=16,
        conv_pos=8, conv_pos_groups=2,
    )  # fmt: skip
    qformer = Blip2QFormerConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        cross_attention_frequency=1, encoder_hidden_size=64,
    )  # fmt: skip
    text = Qwen2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=128, vocab_size=2000,
    )  # fmt: skip
    return AistaConfig(speech_config=speech, audio_config=audio, qformer_config=qformer, text_config=text)


def random_model(
    config: AistaConfig, device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> AistaForConditionalGeneration:
    """Make a model on the device, its weights random; as training loads it, BEATs and what is trained are
    float32 and the rest has ``dtype``."""
    torch.manual_seed(0)
    with torch.device(device):
        speech = WhisperEncoder(config.speech_config).to(dtype)
        audio = BeatsModel(config.audio_config)
        text = AutoModelForCausalLM.from_config(config.text_config, dtype=dtype)
    return AistaForConditionalGeneration(config, speech, audio, text).to(device)


# ---- the machine ----


def device_here() -> torch.device:
    """Return the GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def memory_of(device: torch.device) -> int:
    """Return a device's memory in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def card_name(device: torch.device) -> str:
    """Return a device's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU {platform.machine()}"


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device, work: Callable[[], Any]) -> int:
    """Return the most bytes allocated on a GPU while something ran; on the CPU, by this process ever."""
    if device.type != "cuda":
        work()
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wait_for(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    wait_for(device)
    return torch.cuda.max_memory_allocated(device)


@contextmanager
def counting_synchronisations(device: torch.device) -> Iterator[list[str]]:
    """Collect a message for every time the host waits for a GPU; none on the CPU."""
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found += [f"{w.filename}:{w.lineno}" for w in seen if "synchronizing" in str(w.message)]


def matrix_rate(device: torch.device, size: int) -> float:
    """Return the operations per second of a large bfloat16 product: what this device reaches in practice."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(6):
        wait_for(device)
        start = time.perf_counter()
        a @ b
        wait_for(device)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times[1:])


# ---- the bench ----


def fitting(config: AistaConfig, sizes: Sizes, memory: int) -> tuple[AistaConfig, Sizes, list[str]]:
    """Halve the batch, then the backbone's blocks, until a step should fit into memory; say what was done."""

    def fits(batch: int) -> bool:
        needed = estimate(config, batch_size=batch, seconds=sizes.clip_seconds).training_gib["total"]
        return 1.1 * needed * GIB + 2 * GIB <= memory

    batch, notes, blocks = sizes.batch, [], config.text_config.num_hidden_layers
    while not fits(batch):
        if batch > 1:
            batch //= 2
        elif config.text_config.num_hidden_layers > 1:
            config.text_config.num_hidden_layers //= 2
            config.text_config.layer_types = config.text_config.layer_types[
                : config.text_config.num_hidden_layers
            ]
            batch = sizes.batch
        else:
            break
    if batch < sizes.batch:
        notes.append(f"batch {sizes.batch} -> {batch}: {memory / GIB:.0f} GiB of memory")
    if config.text_config.num_hidden_layers < blocks:
        notes.append(f"{blocks} -> {config.text_config.num_hidden_layers} blocks: {memory / GIB:.0f} GiB")
    return config, replace(sizes, batch=batch), notes


@dataclass
class Bench:
    """What the measurements share: the device, one model, the sizes, the time that is left."""

    tiny: bool
    device: torch.device = field(default_factory=device_here)
    deadline: float = float("inf")
    notes: list[str] = field(default_factory=list)
    _model: AistaForConditionalGeneration | None = None

    def __post_init__(self) -> None:
        config, sizes = (tiny_config(), TINY) if self.tiny else (preset("qwen2-7b"), Sizes())
        self.config, self.sizes, self.shrunk = fitting(config, sizes, memory_of(self.device))
        self.card = card_name(self.device)
        self.matrix_rate = matrix_rate(self.device, self.sizes.matrix)
        known = peak_flops(self.card)
        self.peak, self.peak_source = (known, "data sheet") if known else (self.matrix_rate, "measured")

    def settings(self) -> dict[str, Any]:
        """Return what results depend on, besides the code."""
        return {"tiny": self.tiny, "card": self.card, "torch": torch.__version__, **asdict(self.sizes)}

    def about(self) -> dict[str, Any]:
        """Describe the machine."""
        return {
            "card": self.card,
            "memory_gib": memory_of(self.device) / GIB,
            "matrix_flops": self.matrix_rate,
            "peak_flops": self.peak,
            "peak_source": self.peak_source,
            "torch": torch.__version__,
            "cuda": torch.version.cuda or "none",
            "python": platform.python_version(),
            "cpu_threads": torch.get_num_threads(),
        }

    def model(self, speech_tokens: str = UNPADDED) -> AistaForConditionalGeneration:
        """Return the one model, set to a kind of speech tokens."""
        if self._model is None:
            self._model = random_model(self.config, self.device)
        self._model.config.speech_tokens = speech_tokens
        return self._model

    def release(self) -> None:
        """Give up the model and its memory."""
        self._model = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def processor(self) -> AistaProcessor:
        """Return a processor for the model: Whisper's features, and the shipped stand-in's tokenizer."""
        extractor = WhisperFeatureExtractor(feature_size=self.config.speech_config.num_mel_bins)
        return AistaProcessor(extractor, load_tokenizer(locate("aista:model")), self.config)

    def seconds_left(self) -> float:
        """Return the seconds until this measurement has to end."""
        return self.deadline - time.monotonic()

    def autocast(self) -> torch.autocast:
        """Return the precision of training: ``precision: bf16``."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def timed(self, work: Callable[[], Any]) -> float:
        """Return the seconds that something takes on the device."""
        wait_for(self.device)
        start = time.perf_counter()
        work()
        wait_for(self.device)
        return time.perf_counter() - start

    def medians(self, works: dict[str, Callable[[], Any]], share: float = 0.7) -> dict[str, float]:
        """Let things take turns and return the median seconds of each, after one turn that warms up.

        The turns end early when ``share`` of the time is spent, but not before the second.
        """
        end = time.monotonic() + share * self.seconds_left()
        times: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(-1, self.sizes.repeats):
            for name, work in works.items():
                spent = self.timed(work)
                if turn >= 0:
                    times[name].append(spent)
            if 0 < turn < self.sizes.repeats - 1 and time.monotonic() > end:
                self.notes.append(f"{turn + 1} of {self.sizes.repeats} turns: no time for more")
                break
        return {name: statistics.median(spent) for name, spent in times.items()}

    def halving(self, run: Callable[[int], dict[str, Any]], batch: int) -> dict[str, Any]:
        """Run at a batch size, and at half of it for as long as memory does not suffice."""
        while True:
            try:
                return {"batch": batch, **run(batch)}
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
            self.notes.append(f"batch {batch} -> {batch // 2}: out of memory")
            batch //= 2
            gc.collect()
            torch.cuda.empty_cache()

    def noise(self, count: int, longest_seconds: float | None = None, seed: int = 0) -> list[np.ndarray]:
        """Draw clips of noise: all as long as the sizes say, or as in a corpus up to a longest."""
        rng = np.random.default_rng(seed)
        seconds = np.full(count, self.sizes.clip_seconds)
        if longest_seconds is not None:
            seconds = np.clip(rng.lognormal(np.log(longest_seconds / 2), 0.45, count), 1.0, longest_seconds)
        return [(0.1 * rng.standard_normal(int(SAMPLE_RATE_HZ * s))).astype(np.float32) for s in seconds]


def words(count: int, rng: np.random.Generator) -> str:
    """Draw a line of words."""
    return " ".join(rng.choice(WORDS, max(2, count)))


def utterances(clips: list[np.ndarray]) -> list[tuple[Utterance, np.ndarray]]:
    """Put words to clips, 2.7 a second, and a translation."""
    rng = np.random.default_rng(0)
    rows = []
    for number, clip in enumerate(clips):
        said = words(round(2.7 * len(clip) / SAMPLE_RATE_HZ), rng)
        row = Utterance(
            id=f"u{number}", audio=f"u{number}.wav", text=said, task="st", tgt_lang="zh", translation=said
        )
        rows.append((row, clip))
    return rows


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Bring both branches of a batch to a device."""
    return {name: branch.to(device) for name, branch in batch.items()}


def lengths_of(batch: dict[str, Any]) -> Lengths:
    """Count a batch's real tokens."""
    speech, text = batch["speech"], batch["text"]
    return Lengths(
        samples=list(speech.sound["num_samples"]),
        tokens=speech.attention_mask.sum(1).tolist(),
        targets=speech.num_targets,
        text_tokens=text.attention_mask.sum(1).tolist(),
    )


def joint_batch(bench: Bench, model: Any, batch: int, *, cached: bool = False, seed: int = 0) -> dict:
    """Make a batch of a joint step on the device, from audio or from the encoders' cached outputs."""
    size = step.Size(
        batch=batch, seconds=bench.sizes.clip_seconds, vocabulary=model.config.text_config.vocab_size
    )
    made = step.batch_of(size, model.config, seed)
    return on_device(made if cached else step.from_audio(made, model.config), bench.device)


# ---- (a) the joint step ----


def joint_step(bench: Bench, speech_tokens: str) -> dict[str, Any]:
    """The joint step: base, AI-STA, the obvious way, AI-STA on cached features; the ratios between them."""
    model = bench.model(speech_tokens)
    return bench.halving(lambda batch: _joint_step(bench, model, batch), bench.sizes.batch)


def _joint_step(bench: Bench, model: Any, batch: int) -> dict[str, Any]:
    audio, cached = (joint_batch(bench, model, batch, cached=kind) for kind in (False, True))
    lengths = lengths_of(audio)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    variants = {
        "base": (step.base_step, audio, ()),
        "aista": (step.aista_step, audio, LAYERS),
        "obvious": (step.obvious_step, audio, LAYERS),
        "aista_cached": (step.aista_step, cached, LAYERS),
    }
    works, rows = {}, {}
    for name, (make, given, layers) in variants.items():
        works[name] = _whole_step(bench, make(model, layers), given, optimizer)
        flops = step_flops(model.config, lengths, layers, encoders=given is audio)
        rows[name] = {"flops": flops.total, "flops_by_part": asdict(flops)}
    seconds = bench.medians(works)
    for name, row in rows.items():
        rate = row["flops"] / seconds[name]
        row["milliseconds"] = 1000 * seconds[name]
        row["tokens_per_second"] = sum(lengths.tokens) / seconds[name]
        row["flop_utilisation"] = rate / bench.peak
        row["share_of_matrix_rate"] = rate / bench.matrix_rate
        row["peak_memory_bytes"] = peak_memory(bench.device, works[name])
        with counting_synchronisations(bench.device) as waits:
            works[name]()
        row["host_synchronisations"] = len(waits)
    return {
        "tokens_per_row": max(lengths.tokens),
        "tokens": sum(lengths.tokens),
        "targets": lengths.targets,
        "blocks": model.config.text_config.num_hidden_layers,
        "variants": rows,
        "aista_over_base": seconds["aista"] / seconds["base"],
        "obvious_over_aista": seconds["obvious"] / seconds["aista"],
        "memory_aista_over_base": rows["aista"]["peak_memory_bytes"] / rows["base"]["peak_memory_bytes"],
    }


def _whole_step(bench: Bench, loss: Any, batch: dict, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Return forward, backward and update of one step."""

    def work() -> None:
        with bench.autocast():
            value = loss(dict(batch))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


# ---- (b) layer selection ----


def selection(bench: Bench) -> dict[str, Any]:
    """Layer selection from audio to ranks, and the ranking of one layer by itself."""
    model, processor = bench.model(UNPADDED), bench.processor()
    pairs = utterances(bench.noise(bench.sizes.pairs, bench.sizes.longest_pair_seconds))
    exact_ranks(*step.synthetic_states(2, model.config.text_config.hidden_size))  # compiles
    warm_up = max(2, len(pairs) // 20)
    first = _select(model, processor, pairs[:warm_up])
    count = _pairs_in_time(bench, first, warm_up)
    found = _select(model, processor, pairs[:count])
    speech, text = step.synthetic_states(count, model.config.text_config.hidden_size)
    here = [[states.to(bench.device) for states in side] for side in (speech, text)]
    exact_ranks(here[0][:2], here[1][:2])
    return {
        **found,
        "pairs": count,
        "synthetic_layer_seconds": bench.timed(lambda: exact_ranks(speech, text)),
        "synthetic_layer_on_device_seconds": bench.timed(lambda: exact_ranks(*here)),
    }


def _pairs_in_time(bench: Bench, first: dict[str, float], tried: int) -> int:
    """Return how many pairs should fit in the time and on the disk, from how long a few took."""
    count = bench.sizes.pairs
    config = bench.config.text_config
    bytes_a_pair = 2 * (config.num_hidden_layers + 1) * 25 * config.hidden_size * 4
    room = shutil.disk_usage(tempfile.gettempdir()).free // (2 * bytes_a_pair)
    linear, square = first["states_seconds"] / tried, first["ranking_seconds"] / tried**2
    while count > tried and (count > room or linear * count + square * count**2 > 0.6 * bench.seconds_left()):
        count = max(tried, count // 2)
    if count < bench.sizes.pairs:
        bench.notes.append(f"{bench.sizes.pairs} -> {count} pairs: no time or disk for more")
    return count


def _select(model: Any, processor: AistaProcessor, pairs: list[Any]) -> dict[str, float]:
    """Bring the states of every layer to disk and rank them there, as ``aista select`` does."""
    count, texts = model.config.text_config.num_hidden_layers + 1, [row.text for row, _ in pairs]
    with tempfile.TemporaryDirectory() as place:
        folder, start = Path(place), time.perf_counter()
        extraction: Any = Extraction(SpeechLM(model, processor), pairs, folder / "states")  # type: ignore[arg-type]
        extraction.run(16)
        between = time.perf_counter()
        settings = SelectSettings(
            output=place, model="random", data=["noise"], num_pairs=len(pairs), compare_costs=False
        )
        report = rank_layers(extraction.layers(range(count), "span"), texts, settings, name="random")
        end = time.perf_counter()
    return {
        "layers": count,
        "seconds": end - start,
        "states_seconds": between - start,
        "ranking_seconds": end - between,
        "mean_mrr": statistics.mean(row.mrr for row in report.rows),
    }


# ---- (c) translation, (d) encoders ----


def translation(bench: Bench) -> dict[str, Any]:
    """Utterances per second, real-time factor; random weights never end: every answer is full length."""
    model = bench.model(UNPADDED).eval()
    request, found = Request("st", "en", "zh"), {}
    for batch in bench.sizes.translated:

        def run(size: int) -> dict[str, Any]:
            clips = bench.noise(size)
            settings = GenerationSettings(batch_size=size, max_new_tokens=bench.sizes.new_tokens)
            translator = Translator(model, bench.processor(), name="random", generation=settings)
            share = 0.9 / len(bench.sizes.translated)
            seconds = bench.medians({"": lambda: translator.answer(clips, request)}, share)[""]
            heard = sum(map(len, clips)) / SAMPLE_RATE_HZ
            return {
                "utterances_per_second": size / seconds,
                "real_time_factor": seconds / heard,
                "new_tokens_per_second": size * bench.sizes.new_tokens / seconds,
            }

        found[f"batch_{batch}"] = bench.halving(run, batch)
    return found


@torch.no_grad()
def encoder_features(bench: Bench) -> dict[str, Any]:
    """Frames per second of the frozen encoders, and what the host needs to make their inputs."""
    model, processor = bench.model(UNPADDED), bench.processor()

    def run(batch: int) -> dict[str, Any]:
        clips = bench.noise(batch)
        inputs = processor.audio_inputs(clips).to(bench.device)
        works = {
            "inputs": lambda: processor.audio_inputs(clips),
            "encoders": lambda: model.encode_audio(inputs),
        }
        seconds = bench.medians(works)
        frames = sum(model.config.frames_for(len(clip)) for clip in clips)
        heard = sum(map(len, clips)) / SAMPLE_RATE_HZ
        return {
            "frames_per_second": frames / seconds["encoders"],
            "audio_seconds_per_second": heard / seconds["encoders"],
            "host_audio_seconds_per_second": heard / seconds["inputs"],
            "peak_memory_bytes": peak_memory(bench.device, works["encoders"]),
        }

    return bench.halving(run, bench.sizes.batch)


# ---- (e) where the time goes ----


def step_profile(bench: Bench) -> dict[str, Any]:
    """The ten costliest operations of an AI-STA step, by the device's own time."""
    model = bench.model(UNPADDED)

    def run(batch: int) -> dict[str, Any]:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
        loss = step.aista_step(model, LAYERS)
        work = _whole_step(bench, loss, joint_batch(bench, model, batch), optimizer)
        work()
        kinds = [ProfilerActivity.CPU]
        if bench.device.type == "cuda":
            kinds.append(ProfilerActivity.CUDA)
        with profile(activities=kinds) as seen:
            work()
            wait_for(bench.device)
        # On a GPU the kernels count; operations would be counted again with the kernels that they start.
        here = DeviceType.CUDA if bench.device.type == "cuda" else DeviceType.CPU
        clock = "self_device_time_total" if here == DeviceType.CUDA else "self_cpu_time_total"
        rows = [
            {"operation": event.key, "calls": event.count, "seconds": getattr(event, clock) / 1e6}
            for event in seen.key_averages()
            if event.device_type == here
        ]
        total = sum(row["seconds"] for row in rows)
        top = sorted(rows, key=lambda row: -row["seconds"])[:10]
        return {"seconds": total, "top": [row | {"share": row["seconds"] / total} for row in top]}

    return bench.halving(run, bench.sizes.batch)


# ---- (f) the tests ----


def gpu_tests(bench: Bench) -> dict[str, Any]:
    """``pytest -m gpu`` in a process of its own; tiny: the CPU is compared with itself."""
    bench.release()
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path} | ({"AISTA_GPU_TESTS_ON": "cpu"} if bench.tiny else {})
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", f"--junitxml={report}"]
        done = subprocess.run(
            [*command, "-o", "addopts="],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=max(1.0, bench.seconds_left()),
        )
        if not report.exists():
            raise RuntimeError(
                f"pytest ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}"
            )
        suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    cases = list(suite.iter("testcase"))
    failed = [case.get("name", "") for case in cases if case.find("failure") is not None]
    broken = [case.get("name", "") for case in cases if case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    bench.notes += [f"failed: {name}" for name in failed + broken]
    return {
        "passed": len(cases) - skipped - len(failed) - len(broken),
        "failed": len(failed) + len(broken),
        "skipped": skipped,
        "seconds": float(suite.get("time", 0)),
    }


# ---- (g) if minutes remain ----


def switches(bench: Bench) -> dict[str, Any]:
    """The AI-STA step with attention by flash kernel or by plain products, and with compiled blocks."""
    model = bench.model(UNPADDED)
    return bench.halving(lambda batch: _switches(bench, model, batch), bench.sizes.batch)


def _switches(bench: Bench, model: Any, batch: int) -> dict[str, Any]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    loss, given = step.aista_step(model, LAYERS), joint_batch(bench, model, batch)
    plain = _whole_step(bench, loss, given, optimizer)

    def by(*backends: SDPBackend) -> Callable[[], None]:
        def work() -> None:
            with sdpa_kernel(list(backends)):
                plain()

        return work

    # BEATs hands attention a bias, which no flash kernel takes: plain products stay allowed for it.
    flash, math = SDPBackend.FLASH_ATTENTION, SDPBackend.MATH
    works = {"default": plain, "flash_attention": by(flash, math), "no_flash_attention": by(math)}
    seconds = bench.medians(works, share=0.4)
    if bench.tiny:
        torch._dynamo.config.disable = True  # a compiler takes half a minute
        bench.notes.append("tiny: nothing is compiled")
    speed_up(model, TrainSettings(compile_blocks=True))
    try:
        compiling = bench.timed(plain)
        seconds["compiled_blocks"] = bench.medians({"": plain}, share=0.8)[""]
    finally:
        for block in SpeechLM(model).decoder.blocks:
            del block.forward
    return {"compile_seconds": compiling} | {f"{name}_milliseconds": 1000 * s for name, s in seconds.items()}


def sharded(bench: Bench) -> dict[str, Any]:
    """The AI-STA step of a few blocks under FSDP2 on one device, beside the same without.

    FSDP2 wants one type within a block, so all weights are float32 and the arithmetic bfloat16.
    """
    bench.release()
    config = AistaConfig.from_dict(bench.config.to_dict())
    config.text_config.num_hidden_layers = bench.sizes.sharded_blocks
    config.text_config.layer_types = config.text_config.layer_types[: bench.sizes.sharded_blocks]
    model = random_model(config, bench.device, torch.float32)
    batch = joint_batch(bench, model, max(1, bench.sizes.batch // 4))
    seconds = {"plain": _objective_seconds(bench, model, batch)}
    with tempfile.TemporaryDirectory() as place:
        torch.distributed.init_process_group(
            "nccl" if bench.device.type == "cuda" else "gloo",
            init_method=f"file://{place}/store",
            rank=0,
            world_size=1,
        )
        try:
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
            mesh = torch.distributed.init_device_mesh(bench.device.type, (1,))
            for block in SpeechLM(model).decoder.blocks:
                fully_shard(block, mesh=mesh, mp_policy=policy)
            seconds["sharded"] = _objective_seconds(bench, model, batch)
        finally:
            torch.distributed.destroy_process_group()
    return {
        "blocks": bench.sizes.sharded_blocks,
        "plain_milliseconds": 1000 * seconds["plain"],
        "sharded_milliseconds": 1000 * seconds["sharded"],
    }


def _objective_seconds(bench: Bench, model: Any, batch: dict) -> float:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, foreach=False)  # sharded and whole ones do not mix
    work = _whole_step(bench, step.aista_step(model, LAYERS), batch, optimizer)
    return bench.medians({"": work}, share=0.4)[""]


def training(bench: Bench) -> dict[str, Any]:
    """``aista joint`` on the shipped stand-ins: small, but trained; from sound files on disk."""
    bench.release()
    with tempfile.TemporaryDirectory() as place:
        folder, rows = Path(place), []
        for row, clip in utterances(bench.noise(bench.sizes.training_batch * 4, longest_seconds=4.0)):
            write_audio(folder / str(row.audio), clip)
            rows.append(row)
        write_manifest(folder / "train.jsonl", rows)
        settings = JointSettings.of({
            "output": str(folder / "out"),
            "init": "aista:stage1",
            "data": {"train": [str(folder / "train.jsonl")]},
            "train": {
                "max_steps": bench.sizes.training_steps,
                "warmup_steps": 1,
                "per_device_train_batch_size": bench.sizes.training_batch,
                "precision": "bf16",
                "logging_steps": 1,
                "eval_steps": None,
                "patience": None,
                "save_steps": bench.sizes.training_steps,
            },
            "alignment": {"layers": list(LAYERS)},
        })  # fmt: skip
        run = joint(settings)
        losses = re.findall(r'"loss": ([-+.\de]+)', (folder / "out" / "history.json").read_text())
    return {
        "steps": run.steps,
        "steps_per_second": run.steps / run.seconds,
        "clips_per_second": run.steps * bench.sizes.training_batch / run.seconds,
        "first_loss": float(losses[0]),
        "last_loss": float(losses[-1]),
    }


@dataclass(frozen=True)
class Measurement:
    """One entry of the list: what is measured, and the most seconds it may take."""

    run: Callable[[Bench], dict[str, Any]]
    limit_seconds: float


MEASUREMENTS = {
    "joint_unpadded": Measurement(lambda bench: joint_step(bench, UNPADDED), 300),
    "joint_padded": Measurement(lambda bench: joint_step(bench, PADDED), 300),
    "selection": Measurement(selection, 420),
    "translation": Measurement(translation, 240),
    "encoder_features": Measurement(encoder_features, 90),
    "step_profile": Measurement(step_profile, 90),
    "gpu_tests": Measurement(gpu_tests, 300),
    "switches": Measurement(switches, 300),
    "sharded": Measurement(sharded, 180),
    "training": Measurement(training, 240),
}
"""In order of worth; the last three only matter if minutes remain."""
