"""Token sequences: where prefix, speech or transcript, suffix and target lie, and rows of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aista.errors import ConfigError
from aista.text.prompts import Prompt, template

IGNORED = -100  # a label that the loss skips


@dataclass(frozen=True)
class Span:
    """Places ``start`` to ``stop - 1`` of a sequence."""

    start: int
    stop: int


@dataclass(frozen=True)
class Row:
    """One sequence: prompt ids (with ``pad`` where speech stands), the slot, and the target ids."""

    prompt: list[int]
    slot: Span
    speech: bool
    target: list[int]


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokenise a piece of text by itself, without special tokens around it."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def end_token_id(tokenizer: Any, template_name: str) -> int:
    """Return the token that closes an answer: the template's, where the tokenizer has it, else its own.

    Raises:
        ConfigError: The tokenizer has neither.
    """
    end = template(template_name).end
    if end:
        token = tokenizer.convert_tokens_to_ids(end)
        if token is not None and token != tokenizer.unk_token_id:
            return int(token)
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "Nothing can close an answer: the tokenizer has no end-of-sequence token.",
            got=f"template {template_name!r}, end {end!r}",
            advice="Choose another template, or give the tokenizer an eos_token.",
        )
    return int(tokenizer.eos_token_id)


def broken_tags(tokenizer: Any, template_name: str) -> dict[str, int]:
    """Return the tags of a template that are not one token of a tokenizer, and how many pieces they become.

    Pieces of a tag are ordinary text: they cost tokens in every row, mean nothing to the backbone, and turn
    up in its answers.
    """
    pieces = {tag: len(text_ids(tokenizer, tag)) for tag in template(template_name).tags}
    return {tag: count for tag, count in pieces.items() if count != 1}


def suitable_template(tokenizer: Any, template_name: str | None, by_family: str) -> str:
    """Return the template to use with a backbone: the one asked for, or one whose tags its tokenizer knows.

    Args:
        template_name: What the user chose, or None.
        by_family: What the backbone's family names; where its tags are broken, ``qwen_chat`` or ``plain``
            takes its place.

    Raises:
        ConfigError: The chosen template has tags that this tokenizer would take to pieces.
    """
    if template_name is None:
        choices = (by_family, "qwen_chat", "plain")
        return next(name for name in choices if not broken_tags(tokenizer, name))
    if broken := broken_tags(tokenizer, template_name):
        raise ConfigError(
            f"The template {template_name!r} has tags that are no tokens of this backbone.",
            got=", ".join(f"{tag} becomes {count} pieces" for tag, count in broken.items()),
            expected="one token each",
            advice="Leave model.template out (here that means "
            f"{suitable_template(tokenizer, None, by_family)!r}), or use the backbone of these tags.",
        )
    return template_name


def prefix_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Return what precedes the speech, with the beginning-of-sequence token where the prompt wants one."""
    bos = [tokenizer.bos_token_id] if prompt.bos and tokenizer.bos_token_id is not None else []
    return bos + text_ids(tokenizer, prompt.prefix)


def make_row(tokenizer: Any, prompt: Prompt, slot: int | list[int], target: list[int], pad: int) -> Row:
    """Build one sequence.

    Args:
        slot: The number of speech tokens, or the ids of a text that stands in their place.
        target: Ids of the answer including its end, empty at inference.
        pad: Stands where speech embeddings will stand; it is never looked up.
    """
    before, after = prefix_ids(tokenizer, prompt), text_ids(tokenizer, prompt.suffix)
    speech = isinstance(slot, int)
    middle = [pad] * slot if isinstance(slot, int) else slot
    span = Span(len(before), len(before) + len(middle))
    return Row(before + middle + after, span, speech, target)


def stack(sequences: Sequence[Sequence[int]], fill: int, side: str) -> tuple[Tensor, Tensor]:
    """Pad sequences on one side.

    Returns:
        (B, T) int64 and its mask (B, T) bool.
    """
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), fill)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        place = slice(width - len(sequence), width) if side == "left" else slice(0, len(sequence))
        ids[row, place] = torch.tensor(sequence, dtype=torch.int64)
        mask[row, place] = True
    return ids, mask


def batch_rows(rows: Sequence[Row], pad: int, side: str) -> dict[str, Tensor]:
    """Put sequences into one batch.

    Args:
        side: ``right`` or ``left``, or ``between``: pads stand between prompt and target, as SALMONN trains.

    Returns:
        ``input_ids``, ``attention_mask`` (int64), ``speech_mask`` (bool) and ``labels`` (-100 outside
        targets),
        each (B, T).
    """
    prompts, targets = [row.prompt for row in rows], [row.target for row in rows]
    labels = [[IGNORED] * len(row.prompt) + row.target for row in rows]
    slots = [
        [row.speech and row.slot.start <= place < row.slot.stop for place in range(len(row.prompt))]
        for row in rows
    ]
    if side == "between":
        left, right = stack(prompts, pad, "right"), stack(targets, pad, "right")
        ids, mask = (torch.cat(pair, dim=1) for pair in zip(left, right, strict=True))
        marks = torch.full(left[0].shape, IGNORED)
        label_ids = torch.cat([marks, stack(targets, IGNORED, "right")[0]], dim=1)
    else:
        ids, mask = stack([p + t for p, t in zip(prompts, targets, strict=True)], pad, side)
        label_ids = stack(labels, IGNORED, side)[0]
    padded = "right" if side == "between" else side
    wide = [slot + [False] * len(target) for slot, target in zip(slots, targets, strict=True)]
    speech = stack(slots if side == "between" else wide, 0, padded)[0].bool()
    speech = torch.nn.functional.pad(speech, (0, ids.shape[1] - speech.shape[1]))
    return {"input_ids": ids, "attention_mask": mask.long(), "speech_mask": speech, "labels": label_ids}


def take_span(states: Tensor, mask: Tensor, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Take the marked places out of a batch, moved to the front of each row.

    Args:
        states: (B, T, ...) anything by place: hidden states, token ids.
        mask: (B, T) bool, true at the places to take.
        width: N, if the host knows it; else the device is asked.

    Returns:
        (B, N, ...) with N the most places any row has, and its mask (B, N) bool; what is masked is arbitrary.
    """
    counts = mask.sum(1)
    width = int(counts.max()) if width is None else width
    order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
    index = order.reshape(*order.shape, *[1] * (states.dim() - 2)).expand(-1, -1, *states.shape[2:])
    taken = torch.arange(width, device=mask.device)[None] < counts[:, None]
    return states.gather(1, index), taken
