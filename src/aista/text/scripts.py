"""Which writing system a text is in: enough to notice that a translation is in another language."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

_HAN, _KANA = "CJK", frozenset({"HIRAGANA", "KATAKANA"})
_SCRIPTS = {
    "ar": {"ARABIC"}, "fa": {"ARABIC"}, "ja": {_HAN, *_KANA}, "ko": {"HANGUL", _HAN}, "mn": {"CYRILLIC"},
    "ru": {"CYRILLIC"}, "ta": {"TAMIL"}, "zh": {_HAN},
}  # fmt: skip
_FEW_LETTERS = 10


@lru_cache(maxsize=1 << 16)
def script(character: str) -> str | None:
    """Return the script of a letter by its Unicode name (``LATIN``, ``CJK``, ...), or None."""
    if not character.isalpha():
        return None
    return unicodedata.name(character, "UNKNOWN").split()[0].split("-")[0]


def script_complaint(text: str, code: str) -> str | None:
    """Say why a text is hardly in a language, judged by its letters; None if nothing speaks against it.

    Args:
        text: Any text; one without letters passes.
        code: ISO 639-1 code; languages not listed here are taken to be written in Latin letters.
    """
    letters = Counter(filter(None, map(script, text)))
    total = letters.total()
    if not total:
        return None
    expected = _SCRIPTS.get(code, {"LATIN"})
    share = sum(letters[name] for name in expected) / total
    if share < 0.5:
        return f"{1 - share:.0%} of the letters are not {'/'.join(sorted(expected))}"
    kana = sum(letters[name] for name in _KANA)
    if code == "ja" and kana == 0 and total >= _FEW_LETTERS:
        return "no kana in a long Japanese text: is it Chinese?"
    if code == "zh" and kana > 0.1 * total:
        return "kana in a Chinese text: is it Japanese?"
    return None
