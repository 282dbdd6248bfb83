"""Characters that look like others or like nothing: what to do with them before two texts are compared."""

from __future__ import annotations

import re
import unicodedata

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
