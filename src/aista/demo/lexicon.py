"""The words of the embedded demo: English, Chinese and Japanese side by side.

Every row of ``lexicon.yaml`` is one meaning. Chinese nouns carry their classifier, Japanese nouns their
counter, Chinese monosyllabic adjectives stand without 的, Japanese verbs are given as the stem before ます.
``kind`` says what a verb or an adjective may stand with, so that a drawn sentence makes sense in all three
languages.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

RARE_SHARE = 0.35


@dataclass(frozen=True)
class Noun:
    """A person or a thing; ``classifier`` and ``counter`` follow the number in Chinese and Japanese."""

    en: str
    zh: str
    ja: str
    classifier: str
    counter: str
    kinds: frozenset[str]
    plural: str

    @property
    def animate(self) -> bool:
        """Whether Japanese says いる (people, animals) and not ある."""
        return bool(self.kinds & {"person", "animal"})


@dataclass(frozen=True)
class Adjective:
    """An attribute with the kinds of nouns it may describe."""

    en: str
    zh: str
    ja: str
    kinds: frozenset[str]


@dataclass(frozen=True)
class Verb:
    """A verb; ``ja`` is the stem before ます, ``zh_past`` differs where the plain verb cannot take 了."""

    en: str
    past: str
    zh: str
    ja: str
    kinds: frozenset[str]
    particle: str = "を"
    wanted: bool = True
    zh_past: str = ""

    @property
    def zh_perfective(self) -> str:
        """The Chinese verb of a completed event."""
        return self.zh_past or self.zh + "了"


@dataclass(frozen=True)
class Gift:
    """A verb with a receiver. ``{r}`` is the receiver; ``zh_past`` is the completed form."""

    en: str
    past: str
    zh: str
    zh_past: str
    ja: str
    kinds: frozenset[str]


@dataclass(frozen=True)
class Place:
    """A place: ``preposition`` + ``en`` where something happens, ``to`` + ``en`` where somebody goes."""

    preposition: str
    en: str
    zh: str
    zh_inside: str
    ja: str

    @property
    def word(self) -> str:
        """The content word."""
        return self.en.removeprefix("the ")


@dataclass(frozen=True)
class Adverb:
    """A time or a vehicle: one fixed phrase in each language; ``tenses`` limits a time."""

    en: str
    zh: str
    ja: str
    tenses: frozenset[str] = frozenset()


def _nouns(table: str) -> tuple[Noun, ...]:
    rows = []
    for line in table.strip().splitlines():
        en, zh, ja, classifier, counter, kinds, *plural = line.split()
        rows.append(Noun(en, zh, ja, classifier, counter, _kinds(kinds), plural[0] if plural else en + "s"))
    return tuple(rows)


def _split(table: str) -> list[list[Any]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def _kinds(cell: str) -> frozenset[str]:
    return frozenset(cell.split(","))


_TABLES = yaml.safe_load((files(__package__) / "lexicon.yaml").read_text(encoding="utf-8"))
PERSONS, THINGS = _nouns(_TABLES["persons"]), _nouns(_TABLES["things"])
ADJECTIVES = tuple(
    Adjective(en, zh, ja, _kinds(kinds)) for en, zh, ja, kinds in _split(_TABLES["adjectives"])
)
VERBS = tuple(
    Verb(
        en, past, zh, ja, _kinds(kinds),
        particle="に" if "ni" in flags else "を", wanted="unwanted" not in flags, zh_past=zh_past,
    )
    for en, past, zh, zh_past, ja, kinds, flags in _split(_TABLES["verbs"])
)  # fmt: skip
GIFTS = tuple(
    Gift(en, past, zh, zh_past, ja, _kinds(kinds))
    for en, past, zh, zh_past, ja, kinds in _split(_TABLES["gifts"])
)
PLACES = tuple(Place(*row) for row in _split(_TABLES["places"]))
INDOORS = frozenset({"kitchen", "garden"})  # somebody does not travel there by vehicle
VEHICLES = tuple(Adverb(*row) for row in _split(_TABLES["vehicles"]))
TIMES = tuple(Adverb(en, zh, ja, _kinds(tenses)) for en, zh, ja, tenses in _split(_TABLES["times"]))
MOTIONS = (
    Verb("go", "went", "去", "行き", frozenset(), zh_past="去了"),
    Verb("return", "returned", "回", "戻り", frozenset(), zh_past="回到了"),
)


@dataclass(frozen=True)
class Pronoun:
    """A subject pronoun; the Japanese wish of the first person is たい, of others たがる."""

    en: str
    zh: str
    ja: str
    first_person: bool
    third_singular: bool


PRONOUNS = (
    Pronoun("I", "我", "私", True, False),
    Pronoun("we", "我们", "私たち", True, False),
    Pronoun("he", "他", "彼", False, True),
    Pronoun("she", "她", "彼女", False, True),
    Pronoun("they", "他们", "彼ら", False, False),
)
# (English, Chinese, Japanese) of the counted nouns.
NUMBERS = (("two", "两", "二"), ("three", "三", "三"), ("four", "四", "四"), ("five", "五", "五"))
TSU = ("二つ", "三つ", "四つ", "五つ")


def stable_hash(*parts: str) -> int:
    """Hash strings the same way in every process and on every machine."""
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8], "big")


def _rare() -> frozenset[str]:
    """About a third of the content words of every class, drawn by a hash."""
    classes: tuple[list[str], ...] = (
        [noun.en for noun in PERSONS],
        [noun.en for noun in THINGS],
        [adjective.en for adjective in ADJECTIVES],
        [verb.en for verb in VERBS],
        [place.word for place in PLACES],
        [vehicle.en.removeprefix("by ") for vehicle in VEHICLES],
    )
    words: set[str] = set()
    for entries in classes:
        ordered = sorted(entries, key=lambda word: stable_hash("rare", word))
        words.update(ordered[: round(RARE_SHARE * len(ordered))])
    # "car" and "bicycle" are both a thing and a vehicle: one decision for both.
    return frozenset(words)


RARE_WORDS = _rare()
