"""Languages and prompts: how a text in a language is asked for, and how it has to be written.

A prompt is three pieces of text that are tokenised separately: ``prefix``, then the speech tokens (or, for a
text branch, the transcript tokens), then ``suffix``; the target follows and is closed by ``end``. In every
template the speech stands before the instruction: with causal attention the hidden states of the speech
depend on the prefix alone (docs/decisions, 3).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal

from aista.errors import ConfigError

SPEECH_SLOT = "<Speech>"


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
    """Return the script of a letter by its Unicode name (``LATIN``, ``CJK``, ...), or None.

    Letters of half and of full width are of the script of the others.
    """
    if not character.isalpha():
        return None
    name = unicodedata.name(character, "UNKNOWN").removeprefix("HALFWIDTH ").removeprefix("FULLWIDTH ")
    return name.split()[0].split("-")[0]


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


# ---- prompts


@dataclass(frozen=True)
class Prompt:
    """One rendered prompt: the texts around the speech, and the text that closes an answer.

    Attributes:
        bos: Whether the backbone's beginning-of-sequence token precedes the prefix (where it has one).
    """

    prefix: str
    suffix: str
    end: str
    bos: bool


@dataclass(frozen=True)
class Template:
    """How one family of language models is addressed; ``{speech}`` and ``{instruction}`` are filled in."""

    text: str
    end: str
    bos: bool

    @property
    def tags(self) -> list[str]:
        """The tags that must each be one token of the backbone, such as ``<|im_start|>``."""
        return sorted(set(re.findall(r"<\|[^|<>]+\|>", self.text)))


TEMPLATES: dict[str, Template] = {
    # Vicuna as SALMONN addresses it (its public code, branch `salmonn`): the tags are plain text.
    "vicuna": Template("USER: <Speech>{speech}</Speech> {instruction}\nASSISTANT:", end="</s>", bos=True),
    # The flat form of Qwen2-Audio's base model: no roles.
    "qwen_flat": Template("<|audio_bos|>{speech}<|audio_eos|>{instruction}", end="<|endoftext|>", bos=False),
    # The chat form of Qwen2-Audio's instruct model.
    "chatml": Template(
        "<|im_start|>user\nAudio 1: <|audio_bos|>{speech}<|audio_eos|>\n{instruction}<|im_end|>\n"
        "<|im_start|>assistant\n",
        end="<|im_end|>",
        bos=False,
    ),
    # Qwen's chat form with its standard system turn: the tags of every Qwen text model, none for the audio.
    # Fourteen tokens stand before the speech, so attention sinks form there and not inside it.
    "qwen_chat": Template(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n{speech}\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
        end="<|im_end|>",
        bos=False,
    ),
    # No tags at all: for a language model that was trained without any chat form.
    "plain": Template("{speech}\n{instruction}\n", end="", bos=True),
}


def template(name: str) -> Template:
    """Return a template by name.

    Raises:
        ConfigError: No template has this name.
    """
    if name not in TEMPLATES:
        raise ConfigError(
            f"Unknown prompt template {name!r}.", expected=", ".join(TEMPLATES), advice="Set model.template."
        )
    return TEMPLATES[name]


def render(template_name: str, instruction: str) -> Prompt:
    """Render an instruction in a template.

    Args:
        template_name: One of ``TEMPLATES``.
        instruction: What the model is asked to do. It may hold ``<Speech>`` at its very start (SALMONN's
            habit), which is dropped: the template says where the speech stands.

    Raises:
        ConfigError: The template is unknown, or the instruction holds the slot elsewhere or twice.
    """
    form = template(template_name)
    instruction = instruction.removeprefix(SPEECH_SLOT).strip()
    if SPEECH_SLOT in instruction:
        raise ConfigError(
            "The instruction holds the speech slot inside its text.",
            got=instruction,
            expected=f"{SPEECH_SLOT} at the start, or not at all",
        )
    prefix, suffix = form.text.split("{speech}")
    return Prompt(prefix, suffix.replace("{instruction}", instruction), form.end, form.bos)


_ST = (
    "Translate the speech into {language}.",
    "Listen to the speech and translate it into {language}.",
    "Give the {language} translation of what is said.",
)
INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "asr": (
        "Transcribe the speech into {language} text.",
        "Write down what is said in {language}.",
        "Recognize the speech and give the transcription in {language}.",
    ),
    "aac": ("Describe the sound.", "Write a caption for the audio.", "What can be heard in the audio?"),
    "st": _ST,
    "mt": _ST,
}


def instructions(task: str, target_language: str | None) -> tuple[str, ...]:
    """Return every wording of a task, the one used for evaluation first.

    Args:
        task: ``asr``, ``aac``, ``st`` or ``mt`` (text translation is asked for in the words of ``st``: the
            paper's zero-shot MT keeps the training prompt).
        target_language: ISO code of the answer's language; not needed for ``aac``.

    Raises:
        ConfigError: The task or the language is unknown.
    """
    if task not in INSTRUCTIONS:
        raise ConfigError(f"Unknown task {task!r}.", expected=", ".join(INSTRUCTIONS))
    name = language(target_language).name if target_language else "English"
    return tuple(wording.format(language=name) for wording in INSTRUCTIONS[task])


def instruction(task: str, target_language: str | None, *, draw: str | None = None) -> str:
    """Return one wording of a task: the first, or one drawn by a hash of ``draw``.

    The draw depends on nothing but its argument, so that a resumed run sees the prompts it would have seen.
    """
    wordings = instructions(task, target_language)
    if draw is None:
        return wordings[0]
    return wordings[int.from_bytes(hashlib.sha256(draw.encode()).digest()[:4], "big") % len(wordings)]


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokenise a piece of text by itself, without special tokens around it; control tokens in it are such."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Do the same with a text from outside, a transcript or a target: control tokens in it are mere text."""
    if not text or type(tokenizer).__name__ == "MistralCommonBackend":  # which never reads one in a text
        return text_ids(tokenizer, text)
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Return the texts that a tokenizer reads as control tokens."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return tuple(entry.content for entry in added if entry.special and len(entry.content) > 1)


def broken_up(text: str, tokens: Iterable[str]) -> str:
    """Return a text in which none of these control tokens stands: a space breaks it, ``< |im_end|>``."""
    for token in tokens:
        if token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


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
