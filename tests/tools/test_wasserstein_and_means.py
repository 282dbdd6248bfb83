"""The distance with negatives is the sum of its two parts, layer by layer."""

from __future__ import annotations

import torch

from aista.alignment import PairedStates, retrieval, wasserstein
from tools.wasserstein_and_means import Method


def test_it_is_the_sum_of_its_parts_and_keeps_wrong_transcripts_away() -> None:
    layers, generator = (0, 2), torch.Generator().manual_seed(1)
    sides = [{k: torch.randn(4, width, 6, generator=generator) for k in layers} for width in (5, 3)]
    masks = torch.ones(4, 5, dtype=torch.bool), torch.ones(4, 3, dtype=torch.bool)
    states = PairedStates(
        speech=sides[0], speech_mask=masks[0], text=sides[1], text_mask=masks[1],
        transcript_ids=torch.arange(12).reshape(4, 3),
    )  # fmt: skip
    found = Method(layers, negatives=0.5)(states)
    near = wasserstein.Method(layers, scale="cosine")(states)
    apart = retrieval.Method(layers, similarity="mean")(states)
    assert list(found) == Method(layers).loss_names
    for layer in layers:
        wanted = near[f"wasserstein_{layer}"] + 0.5 * apart[f"retrieval_{layer}"]
        torch.testing.assert_close(found[f"wasserstein_and_means_{layer}"], wanted)
    alone = Method(layers, negatives=0.0)(states)
    assert all(alone[name] < found[name] for name in found)
