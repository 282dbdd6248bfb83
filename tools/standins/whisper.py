"""The stand-in speech encoder: a small Whisper for utterances of up to 5 s, trained on synthetic speech.

Besides its decoder's cross-entropy the encoder learns from two CTC heads (characters halfway, words at
the top) that are thrown away afterwards: without them a small encoder takes several times longer to
hear anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerBase,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from tools.standins import loop, tokenizer
from tools.standins.sounds import read_samples

CHUNK_SECONDS = 5  # 500 mel frames, 250 positions: 14 windows of 17 frames and 12 frames of silence
CHARACTERS = " abcdefghijklmnopqrstuvwxyz,.'"
MAX_TARGET_POSITIONS = 40


@dataclass(frozen=True)
class Recipe:
    """Size and schedule of the stand-in Whisper; its data is the corpus ``whisper``."""

    d_model: int = 128
    encoder_layers: int = 4
    decoder_layers: int = 2
    num_heads: int = 4
    ffn_dim: int = 384
    word_ctc_weight: float = 0.5
    character_ctc_weight: float = 0.5
    full_length_share: float = 0.15
    seed: int = 0
    schedule: loop.Schedule = field(
        default_factory=lambda: loop.Schedule(
            steps=2_400, batch_size=32, peak_learning_rate=2e-3, warmup_steps=150
        )
    )


RECIPE = Recipe()
NANO = Recipe(
    d_model=48, encoder_layers=2, decoder_layers=1, num_heads=2, ffn_dim=96,
    schedule=loop.Schedule(steps=12, batch_size=8, peak_learning_rate=2e-3, warmup_steps=3),
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """One utterance: its row in the log-mel array, its length in mel frames, its targets."""

    row: int
    num_frames: int
    token_ids: list[int]
    characters: list[int]


def feature_extractor() -> WhisperFeatureExtractor:
    """Whisper's own log-mel features, for 5 s."""
    return WhisperFeatureExtractor(feature_size=80, chunk_length=CHUNK_SECONDS)


def log_mel(
    paths: list[Path], *, progress: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, list[int]]:
    """Log-mel of every file.

    Returns:
        float16 (files, 80, 500) and the number of mel frames of each that hold audio.
    """
    extract = feature_extractor()
    features = np.empty((len(paths), 80, extract.nb_max_frames), dtype=np.float16)
    lengths = []
    for start in range(0, len(paths), 64):
        samples = [read_samples(path) for path in paths[start : start + 64]]
        batch = extract(samples, sampling_rate=16_000, return_tensors="np").input_features
        features[start : start + len(samples)] = batch
        lengths += [min(-(-len(audio) // extract.hop_length), extract.nb_max_frames) for audio in samples]
        if progress:
            progress(len(lengths), len(paths))
    return features, lengths


def _id(tokens: PreTrainedTokenizerBase, token: str) -> int:
    return int(tokens.get_vocab()[token])


def new_model(recipe: Recipe, tokens: PreTrainedTokenizerBase) -> WhisperForConditionalGeneration:
    """A fresh model of the real class."""
    torch.manual_seed(recipe.seed)
    config = WhisperConfig(
        vocab_size=len(tokens), d_model=recipe.d_model, num_mel_bins=80,
        encoder_layers=recipe.encoder_layers, encoder_attention_heads=recipe.num_heads,
        encoder_ffn_dim=recipe.ffn_dim, decoder_layers=recipe.decoder_layers,
        decoder_attention_heads=recipe.num_heads, decoder_ffn_dim=recipe.ffn_dim,
        max_source_positions=CHUNK_SECONDS * 50, max_target_positions=MAX_TARGET_POSITIONS, dropout=0.05,
        decoder_start_token_id=_id(tokens, tokenizer.TURN_START),
        bos_token_id=_id(tokens, tokenizer.TURN_START),
        eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config.max_length = MAX_TARGET_POSITIONS
    return model


class Trainee(nn.Module):
    """A Whisper with the two CTC heads it is trained with."""

    def __init__(self, whisper: WhisperForConditionalGeneration, recipe: Recipe) -> None:
        super().__init__()
        self.whisper, self.recipe = whisper, recipe
        self.word_head = nn.Linear(recipe.d_model, whisper.config.vocab_size)
        self.character_head = nn.Linear(recipe.d_model, len(CHARACTERS) + 1)

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder on features of any length (its own forward insists on 5 s): middle and last states."""
        encoder = self.whisper.model.encoder
        hidden = nn.functional.gelu(encoder.conv2(nn.functional.gelu(encoder.conv1(mel)))).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        hidden = nn.functional.dropout(hidden, self.whisper.config.dropout, self.training)
        middle = hidden
        for index, layer in enumerate(encoder.layers):
            hidden = layer(hidden, None)
            if index == len(encoder.layers) // 2 - 1:
                middle = hidden
        return middle, encoder.layer_norm(hidden)

    def loss(self, mel: Tensor, num_frames: Tensor, words: list[Tensor], characters: list[Tensor]) -> Tensor:
        """Cross-entropy of the decoder plus both CTC losses."""
        config = self.whisper.config
        middle, last = self.encode(mel)
        labels = nn.utils.rnn.pad_sequence(words, batch_first=True, padding_value=-100)
        start = torch.full((len(words), 1), config.decoder_start_token_id)
        before = labels[:, :-1].masked_fill(labels[:, :-1] < 0, int(config.pad_token_id or 0))
        shifted = torch.cat([start, before], 1)
        decoded = self.whisper.model.decoder(input_ids=shifted, encoder_hidden_states=last).last_hidden_state
        logits = self.whisper.proj_out(decoded)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.05)
        frames = ((num_frames + 1) // 2).clamp(max=last.shape[1])
        spoken = [target[:-1] for target in words]  # without the end token
        loss = loss + self.recipe.word_ctc_weight * _ctc(self.word_head(last), frames, spoken)
        return loss + self.recipe.character_ctc_weight * _ctc(self.character_head(middle), frames, characters)


def _ctc(logits: Tensor, frames: Tensor, targets: list[Tensor]) -> Tensor:
    lengths = torch.tensor([len(target) for target in targets])
    probabilities = logits.log_softmax(-1).transpose(0, 1)
    return nn.functional.ctc_loss(probabilities, torch.cat(targets), frames, lengths, zero_infinity=True)


def _examples(texts: list[str], lengths: list[int], tokens: PreTrainedTokenizerBase) -> list[Example]:
    ids = tokens(texts, add_special_tokens=False)["input_ids"]
    return [
        Example(
            row, length, [*words, tokens.eos_token_id],
            [1 + CHARACTERS.index(c) for c in text.lower() if c in CHARACTERS],
        )
        for row, (text, length, words) in enumerate(zip(texts, lengths, ids, strict=True))
    ]  # fmt: skip


def _batch_features(features: np.ndarray, batch: list[Example], rng: Random, full_share: float) -> Tensor:
    """Cut the batch to its longest utterance plus some silence; mask a band of mel channels now and then."""
    longest = max(example.num_frames for example in batch)
    width = features.shape[-1]
    if rng.random() >= full_share:
        width = min(width, 2 * ((longest + rng.randint(4, 60)) // 2))
    mel = torch.from_numpy(features[[example.row for example in batch], :, :width].astype(np.float32))
    for row in mel:
        if rng.random() < 0.4:
            band = rng.randint(1, 8)
            start = rng.randrange(80 - band)
            row[start : start + band] = float(row.mean())
    return mel


def train(
    folder: Path | str,
    features: np.ndarray,
    lengths: list[int],
    texts: list[str],
    recipe: Recipe = RECIPE,
    *,
    progress: loop.Progress | None = None,
) -> dict[str, Any]:
    """Train on log-mel features into a folder that ``WhisperModel`` loads; returns the card.

    Args:
        folder: Where the finished model goes.
        features: float16 (utterances, 80, 500), as ``log_mel`` gives them.
        lengths: Mel frames of each utterance.
        texts: Transcripts.
        recipe: Size and schedule.
        progress: See ``loop.fit``.
    """
    folder, partial = Path(folder), Path(f"{folder}.part")
    tokens = tokenizer.train(texts, vocabulary_size=800, with_instructions=False)
    whisper = new_model(recipe, tokens)
    trainee = Trainee(whisper, recipe)
    rng = Random(f"whisper {recipe.seed}")
    examples = _examples(texts, lengths, tokens)
    batches = loop.length_grouped(
        examples, lambda example: example.num_frames, recipe.schedule.batch_size, rng
    )

    def loss_of(batch: list[Example]) -> Tensor:
        return trainee.loss(
            _batch_features(features, batch, rng, recipe.full_length_share),
            torch.tensor([example.num_frames for example in batch]),
            [torch.tensor(example.token_ids) for example in batch],
            [torch.tensor(example.characters) for example in batch],
        )

    def save() -> None:
        whisper.save_pretrained(partial)
        feature_extractor().save_pretrained(partial)
        tokenizer.save(tokens, partial)

    minutes = loop.fit(trainee, batches, loss_of, recipe.schedule, progress=progress, save=save)
    loop.round_to_bfloat16(whisper)
    save()
    loop.save_bfloat16(whisper, partial)
    card = {
        "what": "stand-in speech encoder (WhisperForConditionalGeneration), trained on espeak-ng speech",
        "recipe": asdict(recipe),
        "utterances": len(texts),
        "parameters": sum(p.numel() for p in whisper.parameters()),
        "encoder_parameters": sum(p.numel() for p in whisper.model.encoder.parameters()),
        "minutes": minutes,
    }
    loop.publish(partial, folder, card)
    return card


@torch.no_grad()
def transcribe(
    whisper: WhisperForConditionalGeneration, tokens: PreTrainedTokenizerBase, features: np.ndarray
) -> list[str]:
    """Greedy transcripts of log-mel features (utterances, 80, 500)."""
    whisper = whisper.float().eval()
    texts = []
    for start in range(0, len(features), 50):
        mel = torch.from_numpy(features[start : start + 50].astype(np.float32))
        encoded = whisper.model.encoder(mel).last_hidden_state
        ids = torch.full((len(mel), 1), whisper.config.decoder_start_token_id)
        while ids.shape[1] < MAX_TARGET_POSITIONS:
            decoded = whisper.model.decoder(input_ids=ids, encoder_hidden_states=encoded).last_hidden_state
            ids = torch.cat([ids, whisper.proj_out(decoded[:, -1]).argmax(-1, keepdim=True)], 1)
            if (ids == tokens.eos_token_id).any(1).all():
                break
        for row in ids[:, 1:].tolist():
            end = row.index(tokens.eos_token_id) if tokens.eos_token_id in row else len(row)
            texts.append(str(tokens.decode(row[:end], skip_special_tokens=True)))
    return texts
