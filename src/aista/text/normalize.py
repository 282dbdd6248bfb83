"""Transcripts as a language model expects them (DESIGN decision 13).

LibriSpeech and GigaSpeech write IN CAPITALS WITHOUT PUNCTUATION. A tokenizer cuts such text into odd pieces,
and retrieval and transport would compare speech with the wrong tokens: it is rewritten as a sentence.
"""

from __future__ import annotations

import re

PUNCTUATION_TAGS = {
    "<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!",
}  # fmt: skip
GARBAGE_TAGS = frozenset({"<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"})

_SPACES = re.compile(r"\s+")
_SENTENCE_START = re.compile(r"(^|(?<![^\W\d_]\.[^\W\d_])\.\s+|[!?]\s+)(\W*)(\w)")
_I = re.compile(r"\bi\b(?=$|[\s,!?;:]|\.(?!\w)|['\u2019](?:m|ll|d|ve)\b)")
_INITIALS = re.compile(r"(?<![.'\u2019])\b(?!(?:a\.m|p\.m|i\.e|e\.g)\b)[^\W\d_](?=\.)(?:\.[^\W\d_]\b)*")
_IRISH = re.compile(r"\bo(['\u2019])(?!(?:clock|er\w*|lantern|mine|nights?|the)\b)([^\W\d_])(?=\w{2})")


def collapse_spaces(text: str) -> str:
    """Return the text with single spaces and none at its ends."""
    return _SPACES.sub(" ", text).strip()


def sentence_case(text: str) -> str:
    """Lower-case an all-capitals English transcript; capitalise sentence starts and the pronoun I.

    Initials (``U.S.``, ``J. Smith``) keep their capitals, and ``U.S.`` starts no sentence; names of the form
    ``O'Neill`` get theirs. Other names lose their capitals: nothing in the text says which words they are.
    """
    lowered = _I.sub("I", collapse_spaces(text).lower())
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
