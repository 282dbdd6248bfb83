"""Languages by ISO 639-1 code: their English name, their script, the tokenizer BLEU needs."""

from __future__ import annotations

from dataclasses import dataclass

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
