"""Transcripts as a language model expects them (docs/decisions, 13), and characters that look alike.

LibriSpeech and GigaSpeech write IN CAPITALS WITHOUT PUNCTUATION. A tokenizer cuts such text into odd pieces,
and retrieval and transport would compare speech with the wrong tokens: it is rewritten as a sentence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

PUNCTUATION_TAGS = {
    "<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!",
}  # fmt: skip
GARBAGE_TAGS = frozenset({"<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"})

_SENTENCE_START = re.compile(r"(^|(?<![^\W\d_]\.[^\W\d_])\.\s+|[!?]\s+)(\W*)(\w)")
_I = re.compile(r"\bi\b(?=$|[\s,!?;:]|\.(?!\w)|['\u2019](?:m|ll|d|ve)\b)")
_INITIALS = re.compile(r"(?<![.'\u2019])\b(?!(?:a\.m|p\.m|i\.e|e\.g)\b)[^\W\d_](?=\.)(?:\.[^\W\d_]\b)*")
_IRISH = re.compile(r"\bo(['\u2019])(?!(?:clock|er\w*|lantern|mine|nights?|the)\b)([^\W\d_])(?=\w{2})")


def sentence_case(text: str) -> str:
    """Lower-case an all-capitals English transcript; capitalise sentence starts and the pronoun I.

    Initials (``U.S.``, ``J. Smith``) keep their capitals, and ``U.S.`` starts no sentence; names of the form
    ``O'Neill`` get theirs. Other names lose their capitals: nothing in the text says which words they are.
    """
    lowered = _I.sub("I", " ".join(text.split()).lower())
    lowered = _INITIALS.sub(lambda found: found[0].upper(), lowered)
    lowered = _IRISH.sub(lambda found: f"O{found[1]}{found[2].upper()}", lowered)
    return _SENTENCE_START.sub(lambda found: found[1] + found[2] + found[3].upper(), lowered)


def gigaspeech_text(text: str) -> str | None:
    """Turn GigaSpeech's tags into punctuation and its capitals into a sentence.

    Returns:
        The text, or ``None`` for a garbage utterance: one with a tag for silence, music, noise or other.
    """
    words = text.split()
    if GARBAGE_TAGS.intersection(words):
        return None
    joined = " ".join(PUNCTUATION_TAGS.get(word, word) for word in words)
    return sentence_case(re.sub(r"\s+([,.?!])", r"\1", joined))


# Quotation marks, primes, accents and letters that are typed where an apostrophe belongs.
_APOSTROPHES = (
    "\u0060\u00b4\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\u02c8\u02ca\u02cb\u055a\u05f3\u07f4\u07f5\u1fbd\u1fbf\u1fef"
    "\u1ffd\u1ffe\u2018\u2019\u201b\u2032\u2035\u275b\u275c\ua78b\ua78c\uff07\uff40"
)
_TO_APOSTROPHE = str.maketrans(dict.fromkeys(_APOSTROPHES, "'"))
# Category Cf is asked of unicodedata. These have other categories and are as invisible: control characters
# but spaces, the combining grapheme joiner, Hangul and Khmer fillers, variation selectors.
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000e-\u001b\u007f-\u0084\u0086-\u009f\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164"
    "\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_DOTTED_I = str.maketrans({"I": "ı", "İ": "i"})
_WITH_DOTTED_I = ("tr", "az")


def without_invisible(text: str) -> str:
    """Return a text without format characters (Unicode category Cf: zero-width spaces and joiners, soft
    hyphens, byte order marks, direction marks) and others that nobody sees; spaces stay."""
    if text.isascii() and text.isprintable():
        return text
    shown = _INVISIBLE.sub("", text)
    return "".join(mark for mark in shown if unicodedata.category(mark) != "Cf")


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: it is empty, or spaces and invisible characters alone."""
    return not without_invisible(text).strip()


def same_apostrophes(text: str) -> str:
    """Return a text in which every kind of apostrophe is U+0027."""
    return text.translate(_TO_APOSTROPHE)


def lower(text: str, code: str) -> str:
    """Return a text in lower case, as its language has it.

    Turkish has two letters i, and ``I`` is the capital of the one without a dot. Where several small letters
    have one capital (``ß`` and ``ss``, ``ς`` and ``σ``), one of them stands for all.

    Args:
        text: Any text, composed (NFC or NFKC).
        code: ISO 639-1 code of its language.
    """
    if code in _WITH_DOTTED_I:
        text = text.translate(_DOTTED_I)
    return text.casefold()


def edit_distance(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Levenshtein's distance: the fewest substitutions, deletions and insertions from one to the other.

    Cost: time len(one) * len(other), memory len(other).
    """
    row = list(range(len(other) + 1))
    for i, unit in enumerate(one, start=1):
        corner, row[0] = row[0], i
        for j, counterpart in enumerate(other, start=1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (unit != counterpart))
    return row[-1]
