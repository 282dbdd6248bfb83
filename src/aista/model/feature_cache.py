"""The frozen encoders' outputs, computed once and kept on disk: later epochs and runs skip the encoders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from aista import processes
from aista.audio.rates import FRAMES_PER_WINDOW, SAMPLE_RATE_HZ
from aista.data.dataset import SpeechDataset
from aista.data.feature_store import FeatureStore, FeatureStoreWriter, estimate_bytes, is_complete
from aista.data.manifest import Manifest
from aista.data.recordings import SoundNames
from aista.errors import ConfigError


def cached_features(
    model: Any,
    processor: Any,
    manifests: list[str],
    folder: str,
    *,
    batch_size: int = 16,
    most: int | None = None,
    **limits: Any,
) -> FeatureStore:
    """Return a store that holds the encoder features of every clip, computing what is missing.

    Features are the concatenated raw outputs of the frozen encoders, before the trained LayerNorms:
    (frames, d_speech + d_audio), float16. They depend on nothing that training changes.

    Of several processes the main one encodes, on its own device, while the others wait. A run beside this one
    that fills the same folder is waited for too. Features are kept under the content of the file
    (``aista.data.recordings``): a corpus that was moved keeps them.

    Args:
        batch_size: Clips at a time.
        most: Only so many of the first rows that are not too long; None: all.
        limits: ``max_corrupt_share``, ``max_seconds`` and ``too_long`` as those of the training dataset (see
            ``SpeechDataset``), so that its very pieces are encoded.

    Raises:
        CheckpointError: The store was written by other encoders.
        ConfigError: It is not a model of this package.
        AudioError, TrainingError: More clips cannot be read than may be.
    """
    if not hasattr(model, "encode_audio"):
        raise ConfigError(
            "Cached features are for models of this package.",
            got=model.config.model_type,
            advice="Leave features out: somebody else's encoder runs in every step.",
        )
    path = Path(folder)
    fingerprint = encoder_fingerprint(model.config)

    def fill() -> None:
        opened = [Manifest(manifest) for manifest in manifests]
        dataset = SpeechDataset(opened, sounds=SoundNames(path), **limits)
        clips = dataset.subset(range(min(len(dataset), most or len(dataset)))).clips()
        if is_complete(path) and not len(clips.without(FeatureStore(path, fingerprint=fingerprint))):
            return  # runs side by side get here: they only read
        size = estimate_bytes((int(s * SAMPLE_RATE_HZ) for s in clips.lengths), model.config.feature_dim)
        told = f"encoder features of {len(clips):,} clips: about {size / 1e6:,.0f} MB in {path}"
        Console(stderr=True, emoji=False).print(told, markup=False)  # before hours are spent on it
        with FeatureStoreWriter(path, model.config.feature_dim, fingerprint=fingerprint) as writer:
            _encode(model, processor, clips.without(writer), writer, batch_size)

    processes.by_main(fill)
    return FeatureStore(path, fingerprint=fingerprint)


def encoder_fingerprint(config: Any) -> str:
    """Name the frozen encoders and how much of their output is kept."""
    known = [config.bases.get(role, {}).get("fingerprint") for role in ("speech_encoder", "audio_encoder")]
    kept: list[Any] = [config.speech_tokens]  # what is as usual is not named: older stores stay valid
    if config.speech_window_seconds is not None:
        kept.append(config.speech_window_seconds)
    if config.audio_config is not None and not config.audio_config.batch_invariant:
        kept.append("batches as SALMONN's")  # whose padding reaches what BEATs gives
    if config.frames_per_window != FRAMES_PER_WINDOW:  # whole windows are kept
        kept.append(f"{config.frames_per_window} frames")
    return hashlib.sha256(json.dumps([*known, *kept]).encode()).hexdigest()


@contextmanager
def _on_the_gpu(model: Any) -> Iterator[torch.device]:
    """Lend the encoders of a model that lies on the CPU to this process's GPU, where there is one."""
    home = model.speech_encoder.conv1.weight.device
    device = processes.device() if home.type == "cpu" else home
    encoders = [encoder for encoder in (model.speech_encoder, model.audio_encoder) if encoder is not None]
    for encoder in encoders:
        encoder.to(device)
    try:
        yield device
    finally:
        for encoder in encoders:
            encoder.to(home)


@torch.no_grad()
def _encode(
    model: Any, processor: Any, clips: SpeechDataset, writer: FeatureStoreWriter, batch_size: int
) -> None:
    """Run the encoders over clips, longest neighbours together, and append them to the store."""
    order = sorted(range(len(clips)), key=lambda i: clips.lengths[i])
    with Progress() as bar, _on_the_gpu(model) as device:
        task = bar.add_task("encoder features", total=len(order))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            bar.advance(task, len(chosen))
            if not (rows := clips.readable(chosen)):
                continue
            speech = processor.audio_inputs([samples for _, samples in rows])
            frames = model.encode_audio(speech.to(device)).cpu()
            for (utterance, samples), features in zip(rows, frames, strict=True):
                count = model.config.frames_for(len(samples))
                writer.add(clips.feature_key(utterance), features[:count].numpy())
