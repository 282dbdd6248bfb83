"""Pieces of text as token ids."""

from __future__ import annotations

from typing import Any

from aista.errors import ConfigError
from aista.text.prompts import template


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
