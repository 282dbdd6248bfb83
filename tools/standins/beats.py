"""The stand-in sound encoder: a small BEATs trained to tag synthetic sounds and voices."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aista.audio.signal import beats_fbank
from aista.demo import corpus
from aista.model.beats import BeatsConfig, BeatsForAudioTagging
from tools.standins import loop, sounds
from tools.standins.sounds import read_samples

VOICE_TAGS = ("speech", "female", "male")
TAGS = (*sounds.TAGS, *VOICE_TAGS)
_FEMALE = ("f", "Annie")


@dataclass(frozen=True)
class Recipe:
    """Size and schedule of the stand-in BEATs; its data is the corpus ``tagging`` and some speech."""

    hidden_size: int = 96
    num_layers: int = 2
    num_heads: int = 4
    intermediate_size: int = 256
    num_speech: int = 600
    seed: int = 0
    schedule: loop.Schedule = field(
        default_factory=lambda: loop.Schedule(steps=1_200, batch_size=24, peak_learning_rate=1.5e-3)
    )


RECIPE = Recipe()
NANO = Recipe(
    hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64, num_speech=8,
    schedule=loop.Schedule(steps=8, batch_size=8, peak_learning_rate=1e-3, warmup_steps=2),
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A filterbank (T, 128) and its tags as a vector of 0 and 1."""

    fbank: Tensor
    labels: Tensor


def voice_tags(speaker: str) -> tuple[str, ...]:
    """The tags of a speaker ``accent+variant``."""
    variant = speaker.split("+")[1]
    return ("speech", "female" if variant.startswith(_FEMALE) else "male")


def example(samples: np.ndarray, tags: tuple[str, ...]) -> Example:
    """Make a training example."""
    samples = np.pad(samples, (0, max(0, 16_000 - len(samples))))
    labels = torch.tensor([float(tag in tags) for tag in TAGS])
    return Example(torch.from_numpy(beats_fbank(samples)), labels)


def new_model(recipe: Recipe) -> BeatsForAudioTagging:
    """A fresh model."""
    torch.manual_seed(recipe.seed)
    config = BeatsConfig(
        patch_embed_dim=recipe.hidden_size, hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads, intermediate_size=recipe.intermediate_size, conv_pos=32,
        conv_pos_groups=8, num_buckets=64, max_distance=240, hidden_dropout=0.05,
    )  # fmt: skip
    config.num_labels = len(TAGS)
    return BeatsForAudioTagging(config)


def collate(batch: list[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad a batch: filterbanks (B, T, 128), mask (B, T), labels (B, tags)."""
    longest = max(len(entry.fbank) for entry in batch)
    fbank = torch.zeros(len(batch), longest, 128)
    mask = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, entry in enumerate(batch):
        fbank[row, : len(entry.fbank)] = entry.fbank
        mask[row, : len(entry.fbank)] = True
    return fbank, mask, torch.stack([entry.labels for entry in batch])


def examples(folder: Path, scale: corpus.Scale, recipe: Recipe) -> list[Example]:
    """Read the training sounds, and some training speech."""
    tagged = corpus.items("tagging", scale, sounds.draw_sound)
    drawn = [
        (folder / "audio" / "tagging" / f"{item.key}.flac", item.sound.tags)  # type: ignore[union-attr]
        for item in tagged
    ]
    spoken = [item for item in corpus.items("whisper", scale)[: recipe.num_speech] if item.voice]
    drawn += [
        (folder / "audio" / "whisper" / f"{item.key}.flac", voice_tags(item.voice.speaker))
        for item in spoken
        if item.voice
    ]
    return [example(read_samples(path), tags) for path, tags in drawn if path.exists()]


def train(
    folder: Path | str,
    drawn: list[Example],
    recipe: Recipe = RECIPE,
    *,
    progress: loop.Progress | None = None,
) -> dict[str, Any]:
    """Train the tagger into a folder that ``BeatsModel`` loads (without the head); returns the card."""
    folder, partial = Path(folder), Path(f"{folder}.part")
    model = new_model(recipe)
    rng = Random(f"beats {recipe.seed}")
    batches = loop.length_grouped(drawn, lambda entry: len(entry.fbank), recipe.schedule.batch_size, rng)

    def loss_of(batch: list[Example]) -> Tensor:
        fbank, mask, labels = collate(batch)
        return model(fbank, mask, labels).loss * 10

    minutes = loop.fit(model, batches, loss_of, recipe.schedule, progress=progress)
    loop.round_to_bfloat16(model)
    model.save_pretrained(partial)
    card = {
        "what": "stand-in sound encoder (BEATs), trained from nothing to tag synthetic sounds and voices",
        "recipe": asdict(recipe),
        "sounds": len(drawn),
        "tags": list(TAGS),
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": minutes,
    }
    loop.publish(partial, folder, card)
    return card


@torch.no_grad()
def tagging_accuracy(model: BeatsForAudioTagging, drawn: list[Example]) -> dict[str, float]:
    """How well a tagger does: the share of right tags, and mean average precision over the classes."""
    from sklearn.metrics import average_precision_score

    logits, labels = [], []
    for start in range(0, len(drawn), 32):
        fbank, mask, truth = collate(drawn[start : start + 32])
        logits.append(model(fbank, mask).logits)
        labels.append(truth)
    scores, expected = torch.cat(logits).sigmoid().numpy(), torch.cat(labels).numpy()
    present = expected.any(0)
    return {
        "tag_accuracy": round(float(((scores > 0.5) == (expected > 0.5)).mean()), 4),
        "mean_average_precision": round(
            float(average_precision_score(expected[:, present], scores[:, present])), 4
        ),
    }
