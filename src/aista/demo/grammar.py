"""A synchronous grammar: one meaning, said in English, Chinese and Japanese, each in its own order.

English is S V O (to R) (with C) (P) (T). Chinese moves time and place before the verb, modal words
before the place, and counts with classifiers: 医生昨天在公园买了一本红色的书. Japanese is verb-final
with particles, counts after the noun and conjugates: 医者は昨日公園で赤い本を買いました.

Its words are ``lexicon.yaml``: every row is one meaning. Chinese nouns carry their classifier, Japanese nouns
their counter, Chinese monosyllabic adjectives stand without 的, Japanese verbs are given as the stem before
ます. ``kinds`` says what a verb or an adjective may stand with, so that a drawn sentence makes sense.

Two axes are held out. Combinations: an eighth of the (verb, object), (adjective, noun) and (place,
vehicle) pairs never occur in the ``train`` split, and every sentence of the ``test`` split has at least
one. Words: ``RARE_WORDS`` never occur in speech-translation training.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from random import Random
from typing import Any, Literal

import yaml

from aista.errors import ConfigError

Split = Literal["train", "test", "any"]
Vocabulary = Literal["all", "common", "rare"]
TENSES = ("past", "past", "past", "negative", "future", "want")
HELD_OUT_ONE_IN = 8
RARE_SHARE = 0.35
MIN_WORDS, MAX_WORDS = 4, 11

# ---- words ----


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


@dataclass(frozen=True)
class Adjective:
    """An attribute with the kinds of nouns it may describe."""

    en: str
    zh: str
    ja: str
    kinds: frozenset[str]


@dataclass(frozen=True)
class Verb:
    """A verb; ``ja`` is the stem before ます, ``zh_past`` differs where the plain verb cannot take 了.

    The Chinese of a gift holds ``{r}``, its receiver; one that is not ``wanted`` is never wished for.
    """

    en: str
    past: str
    zh: str
    ja: str
    kinds: frozenset[str] = frozenset()
    particle: str = "を"
    wanted: bool = True
    zh_past: str = ""

    def english(self, tense: str, third_singular: bool) -> str:
        """Return the English verb with what makes its tense."""
        wants = f"want{'s' if third_singular else ''} to {self.en}"
        other = {"negative": f"did not {self.en}", "future": f"will {self.en}", "want": wants}
        return {"past": self.past, **other}[tense]

    def chinese(self, tense: str) -> str:
        """Return the Chinese verb; that of a completed event is another."""
        return (self.zh_past or self.zh + "了") if tense == "past" else self.zh

    def japanese(self, tense: str, first_person: bool) -> str:
        """Return the Japanese verb with the ending of its tense."""
        wish = "たいです" if first_person else "たがっています"
        return self.ja + {"past": "ました", "negative": "ませんでした", "future": "ます", "want": wish}[tense]


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


@dataclass(frozen=True)
class Pronoun:
    """A subject pronoun; the Japanese wish of the first person is たい, of others たがる."""

    en: str
    zh: str
    ja: str
    first_person: bool
    third_singular: bool


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
    Verb(en, past, zh, ja, _kinds(kinds), zh_past=zh_past)
    for en, past, zh, zh_past, ja, kinds in _split(_TABLES["gifts"])
)
PLACES = tuple(Place(*row) for row in _split(_TABLES["places"]))
INDOORS = frozenset({"kitchen", "garden"})  # somebody does not travel there by vehicle
VEHICLES = tuple(Adverb(*row) for row in _split(_TABLES["vehicles"]))
TIMES = tuple(Adverb(en, zh, ja, _kinds(tenses)) for en, zh, ja, tenses in _split(_TABLES["times"]))
MOTIONS = (
    Verb("go", "went", "去", "行き", zh_past="去了"),
    Verb("return", "returned", "回", "戻り", zh_past="回到了"),
)
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
    classes = (
        *([word.en for word in words] for words in (PERSONS, THINGS, ADJECTIVES, VERBS)),
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


def is_held_out(pair: tuple[str, str]) -> bool:
    """Whether a pair of content words occurs only in development and test data."""
    return stable_hash("pair", *pair) % HELD_OUT_ONE_IN == 0


# ---- phrases ----


@dataclass(frozen=True)
class Sentence:
    """One meaning in three languages.

    Attributes:
        words: Its English content words (base forms).
        pairs: The word pairs of which some are held out.
    """

    en: str
    zh: str
    ja: str
    words: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]

    @property
    def held_out(self) -> bool:
        """Whether a pair of it is never seen in training."""
        return any(is_held_out(pair) for pair in self.pairs)

    @property
    def rare(self) -> bool:
        """Whether a word of it never occurs in speech-translation training."""
        return any(word in RARE_WORDS for word in self.words)

    @property
    def num_words(self) -> int:
        """The number of English words."""
        return len(self.en.split())


@dataclass(frozen=True)
class Phrase:
    """A noun phrase or a pronoun; ``ja_count`` stands after the particle (本を二冊)."""

    en: str
    zh: str
    ja: str
    words: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    ja_count: str = ""
    first_person: bool = False
    third_singular: bool = True


def noun_phrase(
    rng: Random, noun: Noun, *, determiners: tuple[str, ...], adjective: float, bare_zh: bool = False
) -> Phrase:
    """Render a noun with a determiner and perhaps an adjective.

    Args:
        determiners: What to draw from: ``a``, ``the``, ``this``, ``my``, ``number``.
        adjective: Probability of an adjective.
        bare_zh: Chinese leaves out 一 + classifier (after a negation) or 那 + classifier (persons).
    """
    determiner = rng.choice(determiners)
    words: tuple[str, ...] = (noun.en,)
    pairs: tuple[tuple[str, str], ...] = ()
    before, zh_noun, ja_noun = "", noun.zh, noun.ja
    if rng.random() < (0.0 if determiner == "my" else adjective):
        fitting = [one for one in ADJECTIVES if one.kinds & noun.kinds]
        if fitting:
            attribute = rng.choice(fitting)
            before, zh_noun, ja_noun = f"{attribute.en} ", attribute.zh + zh_noun, attribute.ja + ja_noun
            words, pairs = (attribute.en, noun.en), ((attribute.en, noun.en),)
    if determiner == "number":
        index = rng.randrange(len(NUMBERS))
        en, zh, ja = NUMBERS[index]
        as_tsu = noun.counter == "個" and noun.kinds & {"cloth", "container", "dish"}
        count = TSU[index] if as_tsu else ja + noun.counter
        zh = zh + noun.classifier + zh_noun
        return Phrase(f"{en} {before}{noun.plural}", zh, ja_noun, words, pairs, count)
    if determiner == "my":
        return Phrase(f"my {noun.en}", "我的" + zh_noun, "私の" + ja_noun, words, pairs)
    article = "an" if (before or noun.en)[0] in "aeiou" else "a"
    english = f"{article if determiner == 'a' else determiner} {before}{noun.en}"
    zh_determiner = {"a": "一", "the": "那", "this": "这"}[determiner] + noun.classifier
    if bare_zh and determiner != "this":
        zh_determiner = ""
    ja_determiner = {"a": "", "the": "その", "this": "この"}[determiner]
    if bare_zh and determiner == "the":
        ja_determiner = ""
    return Phrase(english, zh_determiner + zh_noun, ja_determiner + ja_noun, words, pairs)


def _subject(rng: Random, noun: Noun) -> Phrase:
    if rng.random() < 0.22:
        one = rng.choice(PRONOUNS)
        return Phrase(
            one.en, one.zh, one.ja, first_person=one.first_person, third_singular=one.third_singular
        )
    return noun_phrase(rng, noun, determiners=("the",), adjective=0.3, bare_zh=True)


@dataclass
class _Adjuncts:
    """Time, place and company, each in its place in each language."""

    time: Adverb | None = None
    place: Place | None = None
    company: Noun | None = None
    time_first: bool = False

    def english(self) -> str:
        parts = []
        if self.company:
            parts.append(f"with the {self.company.en}")
        if self.place:
            parts.append(f"{self.place.preposition} {self.place.en}")
        if self.time and not self.time_first:
            parts.append(self.time.en)
        return " ".join(parts)

    def chinese(self) -> str:
        place = f"在{self.place.zh_inside}" if self.place else ""
        return place + (f"和{self.company.zh}一起" if self.company else "")

    def japanese(self) -> str:
        place = f"{self.place.ja}で" if self.place else ""
        return place + (f"{self.company.ja}と" if self.company else "")

    def words(self) -> tuple[str, ...]:
        return (*((self.company.en,) if self.company else ()), *((self.place.word,) if self.place else ()))


def _adjuncts(rng: Random, tense: str, company: Noun | None) -> _Adjuncts:
    times = [time for time in TIMES if tense in time.tenses]
    return _Adjuncts(
        time=rng.choice(times) if rng.random() < 0.6 else None,
        place=rng.choice(PLACES) if rng.random() < 0.5 else None,
        company=company if rng.random() < 0.12 else None,
        time_first=rng.random() < 0.2,
    )


# ---- sentences ----


_CHINESE_MODAL = {"past": "", "negative": "没", "future": "会", "want": "想"}


def _assemble(subject: Phrase, adjuncts: _Adjuncts, tense: str, predicate: Sentence) -> Sentence:
    """Put subject, time and the rendered predicate into the order of each language."""
    time = adjuncts.time
    tail = f" {adjuncts.english()}" if adjuncts.english() else ""
    en = f"{subject.en} {predicate.en}{tail}."
    zh = _CHINESE_MODAL[tense] + predicate.zh + "。"
    ja = predicate.ja + "。"
    if time and adjuncts.time_first:
        en = f"{time.en} {en}"
        zh, ja = time.zh + subject.zh + zh, f"{time.ja}、{subject.ja}は{ja}"
    else:
        time_zh, time_ja = (time.zh, time.ja) if time else ("", "")
        zh, ja = subject.zh + time_zh + zh, f"{subject.ja}は{time_ja}{ja}"
    en = en[0].upper() + en[1:]
    words = subject.words + predicate.words + adjuncts.words()
    return Sentence(en, zh, ja, words, subject.pairs + predicate.pairs)


def _object(rng: Random, noun: Noun, tense: str) -> Phrase:
    if "person" in noun.kinds:
        return noun_phrase(rng, noun, determiners=("a", "the", "the"), adjective=0.4)
    any_of = ("a", "a", "a", "the", "the", "this", "my", "number")
    determiners = ("the", "this", "my") if tense == "negative" else any_of
    return noun_phrase(rng, noun, determiners=determiners, adjective=0.5)


def _transitive(rng: Random) -> Sentence:
    """The doctor bought a red book in the park yesterday."""
    verb = rng.choice(VERBS)
    tense = rng.choice(TENSES if verb.wanted else ("past", "negative"))
    people = rng.sample(PERSONS, 3)
    nouns = [noun for noun in THINGS if noun.kinds & verb.kinds]
    noun = people[1] if "person" in verb.kinds else rng.choice(nouns)
    subject, target = _subject(rng, people[0]), _object(rng, noun, tense)
    adjuncts = _adjuncts(rng, tense, None if "person" in verb.kinds else people[2])
    predicate = Sentence(
        f"{verb.english(tense, subject.third_singular)} {target.en}",
        adjuncts.chinese() + verb.chinese(tense) + target.zh,
        adjuncts.japanese() + target.ja + verb.particle + target.ja_count
        + verb.japanese(tense, subject.first_person),
        (verb.en, *target.words), ((verb.en, noun.en), *target.pairs),
    )  # fmt: skip
    return _assemble(subject, adjuncts, tense, predicate)


def _ditransitive(rng: Random) -> Sentence:
    """The teacher gave a book to the student."""
    verb = rng.choice(GIFTS)
    tense = rng.choice(TENSES)
    giver, receiver = rng.sample(PERSONS, 2)
    noun = rng.choice([noun for noun in THINGS if noun.kinds & verb.kinds])
    subject, target = _subject(rng, giver), _object(rng, noun, tense)
    adjuncts = _adjuncts(rng, tense, None)
    adjuncts.place = adjuncts.place if rng.random() < 0.4 else None
    predicate = Sentence(
        f"{verb.english(tense, subject.third_singular)} {target.en} to the {receiver.en}",
        adjuncts.chinese() + verb.chinese(tense).format(r=receiver.zh) + target.zh,
        f"{adjuncts.japanese()}{receiver.ja}に{target.ja}を{target.ja_count}"
        + verb.japanese(tense, subject.first_person),
        (verb.en, *target.words, receiver.en), ((verb.en, noun.en), *target.pairs),
    )  # fmt: skip
    return _assemble(subject, adjuncts, tense, predicate)


def _motion(rng: Random) -> Sentence:
    """The nurse went to the airport by bus yesterday."""
    verb, tense = rng.choice(MOTIONS), rng.choice(TENSES)
    place = rng.choice([place for place in PLACES if place.word not in INDOORS])
    vehicle = rng.choice(VEHICLES) if rng.random() < 0.8 else None
    first, second = rng.sample(PERSONS, 2)
    subject, adjuncts = _subject(rng, first), _adjuncts(rng, tense, second)
    adjuncts.place = None
    vehicle_word = vehicle.en.removeprefix("by ") if vehicle else ""
    predicate = Sentence(
        f"{verb.english(tense, subject.third_singular)} to {place.en}"
        + (f" {vehicle.en}" if vehicle else ""),
        adjuncts.chinese() + (vehicle.zh if vehicle else "") + verb.chinese(tense) + place.zh,
        adjuncts.japanese() + (vehicle.ja if vehicle else "") + f"{place.ja}へ"
        + verb.japanese(tense, subject.first_person),
        (place.word, *((vehicle_word,) if vehicle else ())), ((place.word, vehicle_word),) if vehicle else (),
    )  # fmt: skip
    return _assemble(subject, adjuncts, tense, predicate)


def _existence(rng: Random) -> Sentence:
    """There is a black cat in the garden."""
    noun = rng.choice([noun for noun in (*THINGS, *PERSONS) if "song" not in noun.kinds])
    place = rng.choice(PLACES)
    determiners = ("a",) if "person" in noun.kinds else ("a", "number")
    phrase = noun_phrase(rng, noun, determiners=determiners, adjective=0.6)
    past = rng.random() < 0.4
    time = rng.choice([t for t in TIMES if t.tenses == {"past", "negative"}]) if past else None
    plural = bool(phrase.ja_count)
    be = ("were" if plural else "was") if past else ("are" if plural else "is")
    en = f"There {be} {phrase.en} {place.preposition} {place.en}" + (f" {time.en}" if time else "") + "."
    inside = place.zh_inside if place.zh_inside.endswith(("里", "边")) else place.zh + "里"
    if place.en[0].isupper():
        inside = place.zh
    exist = ("い" if noun.kinds & {"person", "animal"} else "あり") + ("ました" if past else "ます")
    ja = f"{time.ja + '、' if time else ''}{place.ja}に{phrase.ja}が{phrase.ja_count}{exist}。"
    return Sentence(
        en, (time.zh if time else "") + inside + "有" + phrase.zh + "。", ja,
        (*phrase.words, place.word), phrase.pairs,
    )  # fmt: skip


_FRAMES = (_transitive, _ditransitive, _motion, _existence)
_WEIGHTS = (60, 14, 18, 8)


def draw(rng: Random) -> Sentence:
    """Draw one sentence of 4 to 11 words."""
    while True:
        sentence = rng.choices(_FRAMES, _WEIGHTS)[0](rng)
        if MIN_WORDS <= sentence.num_words <= MAX_WORDS:
            return sentence


def sentences(
    count: int, seed: int, *, split: Split = "train", vocabulary: Vocabulary = "all"
) -> list[Sentence]:
    """Draw distinct sentences.

    Args:
        count: How many.
        seed: Equal seeds give equal sentences, on every machine.
        split: ``train`` has no held-out pair, every sentence of ``test`` has one, ``any`` is not filtered.
        vocabulary: ``common`` has no rare word, every sentence of ``rare`` has one, ``all`` is not filtered.

    Raises:
        ConfigError: The split or the vocabulary is unknown.
    """
    if split not in ("train", "test", "any") or vocabulary not in ("all", "common", "rare"):
        raise ConfigError(
            "Unknown part of the grammar.", got=f"{split}, {vocabulary}",
            expected="split train|test|any, vocabulary all|common|rare",
        )  # fmt: skip
    rng, found = Random(f"sentences {seed} {split} {vocabulary}"), dict[str, Sentence]()
    while len(found) < count:
        sentence = draw(rng)
        if split != "any" and sentence.held_out != (split == "test"):
            continue
        if vocabulary != "all" and sentence.rare != (vocabulary == "rare"):
            continue
        found.setdefault(sentence.en, sentence)
    return list(found.values())


def _loose_word(rng: Random) -> str:
    pools = (PERSONS, THINGS, ADJECTIVES, VERBS, GIFTS, TIMES)
    pool = rng.choices((*pools, PLACES, VEHICLES), (4, 7, 4, 5, 1, 2, 3, 2))[0]
    entry: Any = rng.choice(pool)
    if isinstance(entry, Place):
        return str(entry.en)
    return str(entry.past if isinstance(entry, Verb) and rng.random() < 0.5 else entry.en)


def phrases(count: int, seed: int, *, split: Split = "train") -> list[str]:
    """Draw lists of one to four noun phrases or loose words: ``Seven words, a train.`` without a story.

    What a language model would guess is wrong here: who learns to write them has to listen.
    """
    rng = Random(f"phrases {seed} {split}")
    result: list[str] = []
    while len(result) < count:
        items, held_out = [], False
        for _ in range(rng.choice((1, 2, 2, 3, 3, 4))):
            if rng.random() < 0.5:
                items.append(_loose_word(rng))
            else:
                noun = rng.choice(PERSONS + THINGS)
                counted = () if "person" in noun.kinds else ("number", "number")
                phrase = noun_phrase(rng, noun, determiners=("a", "the", "my", *counted), adjective=0.5)
                held_out |= any(is_held_out(pair) for pair in phrase.pairs)
                items.append(phrase.en)
        text = ", ".join(items) + "."
        if len(text.split()) <= 8 and (split == "any" or held_out == (split == "test")):
            result.append(text[0].upper() + text[1:])
    return result
