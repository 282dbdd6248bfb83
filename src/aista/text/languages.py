"""Languages by ISO 639-1 code: their English name, the tokenizer BLEU needs, and their writing system."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

from aista.errors import ConfigError


@dataclass(frozen=True)
class Language:
    """One language.

    Attributes:
        code: ISO 639-1 code, as manifests and directions (``en-zh``) use it.
        name: English name, as prompts use it.
        bleu_tokenizer: The tokenizer sacreBLEU needs for a meaningful score.
        spaces: Whether words are separated by spaces.
    """

    code: str
    name: str
    bleu_tokenizer: str = "13a"
    spaces: bool = True


# The languages of CoVoST2, plus Korean.
_NAMES = {
    "ar": "Arabic", "ca": "Catalan", "cy": "Welsh", "de": "German", "en": "English", "es": "Spanish",
    "et": "Estonian", "fa": "Persian", "fr": "French", "id": "Indonesian", "it": "Italian", "ko": "Korean",
    "lv": "Latvian", "mn": "Mongolian", "nl": "Dutch", "pt": "Portuguese", "ru": "Russian", "sl": "Slovenian",
    "sv": "Swedish", "ta": "Tamil", "tr": "Turkish",
}  # fmt: skip

LANGUAGES: dict[str, Language] = {code: Language(code, name) for code, name in _NAMES.items()} | {
    "zh": Language("zh", "Chinese", bleu_tokenizer="zh", spaces=False),
    "ja": Language("ja", "Japanese", bleu_tokenizer="ja-mecab", spaces=False),
    "ko": Language("ko", "Korean", bleu_tokenizer="ko-mecab"),
}


def language(code: str) -> Language:
    """Return the language of an ISO 639-1 code.

    Raises:
        ConfigError: No language of this code is known.
    """
    try:
        return LANGUAGES[code]
    except KeyError:
        raise ConfigError(
            f"Unknown language {code!r}.",
            expected=", ".join(sorted(LANGUAGES)),
            advice="Use a two-letter ISO 639-1 code, e.g. 'zh' for Chinese (zh-CN is written 'zh').",
        ) from None


_SIMPLIFIED = frozenset({"cn", "sg", "my", "hans"})
_SUBTAG = re.compile(r"[a-z]{4}|[a-z]{2}|[0-9]{3}")  # a script or a region
# ISO 639-2 and 639-3 codes, and other English names.
_OTHER_NAMES = {
    "ara": "ar", "arb": "ar", "cat": "ca", "cym": "cy", "wel": "cy", "deu": "de", "ger": "de", "eng": "en",
    "spa": "es", "est": "et", "ekk": "et", "fas": "fa", "per": "fa", "pes": "fa", "farsi": "fa", "fra": "fr",
    "fre": "fr", "ind": "id", "ita": "it", "jpn": "ja", "kor": "ko", "lav": "lv", "lvs": "lv", "mon": "mn",
    "khk": "mn", "nld": "nl", "dut": "nl", "por": "pt", "rus": "ru", "slv": "sl", "swe": "sv", "tam": "ta",
    "tur": "tr", "zho": "zh", "chi": "zh", "cmn": "zh", "mandarin": "zh",
}  # fmt: skip


def code_of(form: str) -> str:
    """Return the code of a language as people and tools write it: ``zh``, ``ZH``, ``zh-CN``, ``zho_Hans``,
    ``Chinese``.

    ``zh-TW`` and ``zh-Hant`` are refused: what is called ``zh`` here is written in simplified characters.

    Raises:
        ConfigError: No language is known by this name.
    """
    name, *subtags = form.strip().lower().replace("_", "-").split("-")
    names = {known.name.lower(): code for code, known in LANGUAGES.items()}
    code = names.get(name) or _OTHER_NAMES.get(name, name)
    if code == "zh" and not _SIMPLIFIED.issuperset(subtags):
        raise ConfigError(
            f"{form!r} is not the Chinese that is written here.",
            expected="zh, zh-CN, zh-Hans or Chinese: simplified characters",
        )
    return language(code if all(map(_SUBTAG.fullmatch, subtags)) else form).code


_HAN, _KANA = "CJK", frozenset({"HIRAGANA", "KATAKANA"})
_SCRIPTS = {
    "ar": {"ARABIC"}, "fa": {"ARABIC"}, "ja": {_HAN, *_KANA}, "ko": {"HANGUL", _HAN}, "mn": {"CYRILLIC"},
    "ru": {"CYRILLIC"}, "ta": {"TAMIL"}, "zh": {_HAN},
}  # fmt: skip
_FEW_LETTERS = 10


def joined(texts: Iterable[str], code: str | None) -> str:
    """Join texts as their language does; of an unknown one, with spaces."""
    return (" " if code not in LANGUAGES or LANGUAGES[code].spaces else "").join(texts)


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


@cache
def _of_one_form() -> tuple[frozenset[str], frozenset[str]]:
    """Return the characters that are written in simplified and in traditional Chinese only.

    They follow from two character sets that Python knows: GB 2312 (mainland China) holds simplified forms,
    Big5 (Taiwan) traditional ones. What the frequent level of one holds and the other lacks is of one form;
    what both hold (most characters) and rare ones say nothing. Hong Kong also writes 着 and 温, which Big5
    lacks.
    """
    simplified = _level(0xB0, 0xD7, "gb2312", but="big5") - {"着", "温"}
    return simplified, _level(0xA4, 0xC6, "big5", but="gb2312")


def _level(first: int, last: int, codec: str, but: str) -> frozenset[str]:
    """Return the characters whose lead byte in a character set lies in a range, less those of another set."""
    pairs = (bytes((lead, trail)) for lead in range(first, last + 1) for trail in range(0x40, 0xFF))
    held = (pair.decode(codec, "ignore") for pair in pairs)
    return frozenset(
        mark for mark in held if script(mark[:1] or " ") == _HAN and not mark.encode(but, "ignore")
    )


def chinese_form(text: str) -> Literal["simplified", "traditional", "mixed"] | None:
    """Return which characters a Chinese text is written in; None where each of them is written in both forms.

    A form holds from four fifths of the telling characters on: names and quotations keep old forms.
    """
    simplified, traditional = (sum(mark in form for mark in text) for form in _of_one_form())
    if not simplified + traditional:
        return None
    share = traditional / (simplified + traditional)
    return "traditional" if share >= 0.8 else "simplified" if share <= 0.2 else "mixed"
