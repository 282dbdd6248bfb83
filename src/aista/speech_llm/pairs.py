"""Hidden states of recordings beside those of their own transcripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from aista import processes
from aista.data.dataset import Content, SpeechDataset
from aista.data.manifest import Utterance
from aista.errors import ManifestError
from aista.speech_llm.adapter import SpeechLM
from aista.speech_llm.batch import Batch
from aista.text.prompts import instruction

#: The span alone (speech tokens, transcript tokens), or the sequence up to its end, the prompt included.
CLOUDS = ("span", "sequence")
States = dict[int, list[Tensor]]
"""Layer -> one float32 (tokens, d) a pair, on the CPU."""


def compared(batch: Batch, cloud: str) -> Tensor:
    """Return which positions of a batch enter the clouds: (B, T) bool.

    Args:
        cloud: ``span``, or ``sequence``: all real positions up to the end of the span.
    """
    if cloud == "span":
        return batch.span
    up_to_its_end = batch.span.flip(1).cumsum(1).flip(1) > 0
    return batch.attention_mask.bool() & up_to_its_end


def paired_batches(
    batcher: Any, items: Sequence[tuple[Utterance, Content]], before: Sequence[int] | None = None
) -> tuple[Batch, Batch]:
    """Prepare clips, and their transcripts in the place of the sound, behind the same tokens.

    Both end with the span: attention is causal, so what follows changes no state of it.

    Args:
        batcher: Of the model.
        items: B rows with their sound.
        before: Ids that stand before the span in place of the model's own prompt.

    Raises:
        ManifestError: A row has no transcript.
        ModelInputError: The model takes no such sound.
    """
    for row, _ in items:
        if not row.text:
            raise ManifestError(
                f"Utterance {row.id!r} has no transcript.",
                advice="Comparing speech with text needs both.",
            )
    asked = [instruction("asr", "en")] * len(items)
    speech = batcher.translation([content for _, content in items], asked, padding_side="right")
    speech = batcher.up_to_speech(speech, before)
    return speech, batcher.written(speech, [row.text for row, _ in items])


@torch.no_grad()
def states_of(
    speech_llm: SpeechLM, batches: tuple[Batch, Batch], layers: Sequence[int], cloud: str = "span"
) -> tuple[States, States]:
    """Return the states of two batches of ``paired_batches``: of the speech, and of the transcripts.

    Args:
        layers: Numbered as ``output_hidden_states``.
        cloud: Which positions are taken, see :func:`compared`.
    """
    speech, text = (batch.to(speech_llm.model.device) for batch in batches)
    spoken, written = speech_llm.states(speech, layers), speech_llm.text_states(text, layers)
    masks = compared(speech, cloud), compared(text, cloud)
    return (
        {layer: _pieces(spoken[layer], masks[0]) for layer in layers},
        {layer: _pieces(written[layer], masks[1]) for layer in layers},
    )


def paired_states(
    speech_llm: SpeechLM, dataset: SpeechDataset, layers: Sequence[int], batch_size: int
) -> Iterator[tuple[States, States]]:
    """Yield, batch by batch, the states of speech and of transcript at their spans."""
    speech_llm.model.eval()
    starts = range(0, len(dataset), batch_size)
    for start in tqdm(starts, desc="hidden states", unit="batch", disable=not processes.is_main()):
        items = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        yield states_of(speech_llm, paired_batches(speech_llm.batcher, items), layers)


def _pieces(states: Tensor, mask: Tensor) -> list[Tensor]:
    return [row[keep].float().cpu() for row, keep in zip(states, mask, strict=True)]
