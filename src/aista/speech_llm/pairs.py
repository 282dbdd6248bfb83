"""Hidden states of recordings beside those of their own transcripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from aista import processes
from aista.data.dataset import Collator, SpeechDataset
from aista.speech_llm.adapter import SpeechLM
from aista.speech_llm.batch import Batch

#: The span alone (speech tokens, transcript tokens), or the sequence up to its end, the prompt included.
CLOUDS = ("span", "whole")


def compared(batch: Batch, cloud: str) -> Tensor:
    """Return which positions of a batch enter the clouds: (B, T) bool.

    Args:
        cloud: ``span``, or ``whole``: all real positions up to the end of the span.
    """
    if cloud == "span":
        return batch.span
    up_to_its_end = batch.span.flip(1).cumsum(1).flip(1) > 0
    return batch.attention_mask.bool() & up_to_its_end


@torch.no_grad()
def paired_states(
    speech_llm: SpeechLM,
    dataset: SpeechDataset,
    layers: tuple[int, ...],
    batch_size: int,
    starts: Iterable[int] | None = None,
    cloud: str = "span",
) -> Iterator[tuple[dict[int, list[Tensor]], dict[int, list[Tensor]]]]:
    """Yield, batch by batch, the states of speech and of transcript: layer -> one float32 (tokens, d) a pair.

    The speech stands before the instruction and attention is causal, so the instruction changes nothing.

    Args:
        layers: Numbered as ``output_hidden_states``.
        starts: Where the wanted batches begin; None: all of them.
        cloud: Which positions are taken, see :func:`compared`.
    """
    model, collator = speech_llm.model.eval(), Collator(speech_llm.batcher, transcripts=True)
    chosen = list(range(0, len(dataset), batch_size) if starts is None else starts)
    for start in tqdm(chosen, desc="hidden states", unit="batch", disable=not processes.is_main()):
        batch = collator([dataset[i] for i in range(start, min(start + batch_size, len(dataset)))])
        speech, text = batch["speech"].to(model.device), batch["text"].to(model.device)
        heard, read = compared(speech, cloud), compared(text, cloud)
        spoken, written = speech_llm.states(speech, layers), speech_llm.text_states(text, layers)
        yield (
            {layer: _pieces(spoken[layer], heard) for layer in layers},
            {layer: _pieces(written[layer], read) for layer in layers},
        )


def _pieces(states: Tensor, mask: Tensor) -> list[Tensor]:
    return [row[keep].float().cpu() for row, keep in zip(states, mask, strict=True)]
