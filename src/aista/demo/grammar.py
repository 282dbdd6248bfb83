"""A synchronous grammar: one meaning, said in English, Chinese and Japanese, each in its own order.

English is S V O (to R) (with C) (P) (T). Chinese moves time and place before the verb, modal words
before the place, and counts with classifiers: 医生昨天在公园买了一本红色的书. Japanese is verb-final
with particles, counts after the noun and conjugates: 医者は昨日公園で赤い本を買いました.

Two axes are held out. Combinations: an eighth of the (verb, object), (adjective, noun) and (place,
vehicle) pairs never occur in the ``train`` split, and every sentence of the ``test`` split has at least
one. Words: ``lexicon.RARE_WORDS`` never occur in speech-translation training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from aista.demo import lexicon
from aista.demo.lexicon import Adjective, Adverb, Gift, Noun, Place, Pronoun, Verb, stable_hash
from aista.errors import ConfigError

Split = Literal["train", "test", "any"]
Vocabulary = Literal["all", "common", "rare"]
TENSES = ("past", "past", "past", "negative", "future", "want")
HELD_OUT_ONE_IN = 8
MIN_WORDS, MAX_WORDS = 4, 11


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
        return any(word in lexicon.RARE_WORDS for word in self.words)

    @property
    def num_words(self) -> int:
        """The number of English words."""
        return len(self.en.split())


def is_held_out(pair: tuple[str, str]) -> bool:
    """Whether a pair of content words occurs only in development and test data."""
    return stable_hash("pair", *pair) % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True)
class NounPhrase:
    """A noun phrase; ``ja_count`` stands after the particle (本を二冊)."""

    en: str
    zh: str
    ja: str
    ja_count: str
    words: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _draw_adjective(rng: Random, noun: Noun, probability: float) -> Adjective | None:
    if rng.random() >= probability:
        return None
    fitting = [adjective for adjective in lexicon.ADJECTIVES if adjective.kinds & noun.kinds]
    return rng.choice(fitting) if fitting else None


def _count_in_japanese(number: int, noun: Noun) -> str:
    if noun.counter == "個" and noun.kinds & {"cloth", "container", "dish"}:
        return lexicon.TSU[number]
    return lexicon.NUMBERS[number][2] + noun.counter


def noun_phrase(
    rng: Random, noun: Noun, *, determiners: tuple[str, ...], adjective: float, bare_zh: bool
) -> NounPhrase:
    """Render a noun with a determiner and perhaps an adjective.

    Args:
        determiners: What to draw from: ``a``, ``the``, ``this``, ``my``, ``number``.
        adjective: Probability of an adjective.
        bare_zh: Chinese leaves out 一 + classifier (after a negation) or 那 + classifier (persons).
    """
    determiner = rng.choice(determiners)
    attribute = _draw_adjective(rng, noun, 0.0 if determiner == "my" else adjective)
    en_noun, zh_noun, ja_noun = noun.en, noun.zh, noun.ja
    words: tuple[str, ...] = (noun.en,)
    pairs: tuple[tuple[str, str], ...] = ()
    if attribute is not None:
        zh_noun, ja_noun = attribute.zh + zh_noun, attribute.ja + ja_noun
        words, pairs = (attribute.en, noun.en), ((attribute.en, noun.en),)
    before = f"{attribute.en} " if attribute else ""
    if determiner == "number":
        index = rng.randrange(len(lexicon.NUMBERS))
        en, zh, _ = lexicon.NUMBERS[index]
        count = _count_in_japanese(index, noun)
        return NounPhrase(
            f"{en} {before}{noun.plural}", zh + noun.classifier + zh_noun, ja_noun, count, words, pairs
        )
    if determiner == "my":
        return NounPhrase(f"my {en_noun}", "我的" + zh_noun, "私の" + ja_noun, "", words, pairs)
    english = f"{_article(before or en_noun) if determiner == 'a' else determiner} {before}{en_noun}"
    zh_determiner = {"a": "一", "the": "那", "this": "这"}[determiner] + noun.classifier
    if bare_zh and determiner != "this":
        zh_determiner = ""
    ja_determiner = {"a": "", "the": "その", "this": "この"}[determiner]
    if bare_zh and determiner == "the":
        ja_determiner = ""
    return NounPhrase(english, zh_determiner + zh_noun, ja_determiner + ja_noun, "", words, pairs)


@dataclass(frozen=True)
class _Subject:
    en: str
    zh: str
    ja: str
    first_person: bool
    third_singular: bool
    words: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


def _subject(rng: Random, noun: Noun) -> _Subject:
    if rng.random() < 0.22:
        pronoun: Pronoun = rng.choice(lexicon.PRONOUNS)
        return _Subject(
            pronoun.en, pronoun.zh, pronoun.ja, pronoun.first_person, pronoun.third_singular, (), ()
        )
    phrase = noun_phrase(rng, noun, determiners=("the",), adjective=0.3, bare_zh=True)
    return _Subject(phrase.en, phrase.zh, phrase.ja, False, True, phrase.words, phrase.pairs)


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
    times = [time for time in lexicon.TIMES if tense in time.tenses]
    return _Adjuncts(
        time=rng.choice(times) if rng.random() < 0.6 else None,
        place=rng.choice(lexicon.PLACES) if rng.random() < 0.5 else None,
        company=company if rng.random() < 0.12 else None,
        time_first=rng.random() < 0.2,
    )


def _english_verb(verb: Verb | Gift, tense: str, subject: _Subject) -> str:
    if tense == "past":
        return verb.past
    if tense == "negative":
        return f"did not {verb.en}"
    if tense == "future":
        return f"will {verb.en}"
    return f"{'wants' if subject.third_singular else 'want'} to {verb.en}"


_CHINESE_MODAL = {"past": "", "negative": "没", "future": "会", "want": "想"}


def _japanese_verb(stem: str, tense: str, subject: _Subject) -> str:
    if tense == "want":
        return stem + ("たいです" if subject.first_person else "たがっています")
    return stem + {"past": "ました", "negative": "ませんでした", "future": "ます"}[tense]


def _assemble(subject: _Subject, adjuncts: _Adjuncts, tense: str, predicate: Sentence) -> Sentence:
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


def _object(rng: Random, noun: Noun, tense: str) -> NounPhrase:
    if "person" in noun.kinds:
        return noun_phrase(rng, noun, determiners=("a", "the", "the"), adjective=0.4, bare_zh=False)
    if tense == "negative":
        return noun_phrase(rng, noun, determiners=("the", "this", "my"), adjective=0.5, bare_zh=False)
    return noun_phrase(
        rng,
        noun,
        determiners=("a", "a", "a", "the", "the", "this", "my", "number"),
        adjective=0.5,
        bare_zh=False,
    )


def _transitive(rng: Random) -> Sentence:
    """The doctor bought a red book in the park yesterday."""
    verb = rng.choice(lexicon.VERBS)
    tense = rng.choice(TENSES if verb.wanted else ("past", "negative"))
    people = rng.sample(lexicon.PERSONS, 3)
    nouns = [noun for noun in lexicon.THINGS if noun.kinds & verb.kinds]
    noun = people[1] if "person" in verb.kinds else rng.choice(nouns)
    subject, target = _subject(rng, people[0]), _object(rng, noun, tense)
    company = None if "person" in verb.kinds else people[2]
    adjuncts = _adjuncts(rng, tense, company)
    chinese = verb.zh_perfective if tense == "past" else verb.zh
    predicate = Sentence(
        f"{_english_verb(verb, tense, subject)} {target.en}",
        adjuncts.chinese() + chinese + target.zh,
        adjuncts.japanese() + target.ja + verb.particle + target.ja_count
        + _japanese_verb(verb.ja, tense, subject),
        (verb.en, *target.words), ((verb.en, noun.en), *target.pairs),
    )  # fmt: skip
    return _assemble(subject, adjuncts, tense, predicate)


def _ditransitive(rng: Random) -> Sentence:
    """The teacher gave a book to the student."""
    verb = rng.choice(lexicon.GIFTS)
    tense = rng.choice(TENSES)
    giver, receiver = rng.sample(lexicon.PERSONS, 2)
    noun = rng.choice([noun for noun in lexicon.THINGS if noun.kinds & verb.kinds])
    subject, target = _subject(rng, giver), _object(rng, noun, tense)
    adjuncts = _adjuncts(rng, tense, None)
    adjuncts.place = adjuncts.place if rng.random() < 0.4 else None
    chinese = (verb.zh_past if tense == "past" else verb.zh).format(r=receiver.zh)
    predicate = Sentence(
        f"{_english_verb(verb, tense, subject)} {target.en} to the {receiver.en}",
        adjuncts.chinese() + chinese + target.zh,
        f"{adjuncts.japanese()}{receiver.ja}に{target.ja}を{target.ja_count}"
        + _japanese_verb(verb.ja, tense, subject),
        (verb.en, *target.words, receiver.en), ((verb.en, noun.en), *target.pairs),
    )  # fmt: skip
    return _assemble(subject, adjuncts, tense, predicate)


def _motion(rng: Random) -> Sentence:
    """The nurse went to the airport by bus yesterday."""
    verb, tense = rng.choice(lexicon.MOTIONS), rng.choice(TENSES)
    place = rng.choice([place for place in lexicon.PLACES if place.word not in lexicon.INDOORS])
    vehicle = rng.choice(lexicon.VEHICLES) if rng.random() < 0.8 else None
    first, second = rng.sample(lexicon.PERSONS, 2)
    subject, adjuncts = _subject(rng, first), _adjuncts(rng, tense, second)
    adjuncts.place = None
    chinese = verb.zh_perfective if tense == "past" else verb.zh
    vehicle_word = vehicle.en.removeprefix("by ") if vehicle else ""
    predicate = Sentence(
        f"{_english_verb(verb, tense, subject)} to {place.en}" + (f" {vehicle.en}" if vehicle else ""),
        adjuncts.chinese() + (vehicle.zh if vehicle else "") + chinese + place.zh,
        adjuncts.japanese() + (vehicle.ja if vehicle else "") + f"{place.ja}へ"
        + _japanese_verb(verb.ja, tense, subject),
        (place.word, *((vehicle_word,) if vehicle else ())), ((place.word, vehicle_word),) if vehicle else (),
    )  # fmt: skip
    return _assemble(subject, adjuncts, tense, predicate)


def _existence(rng: Random) -> Sentence:
    """There is a black cat in the garden."""
    noun = rng.choice([noun for noun in (*lexicon.THINGS, *lexicon.PERSONS) if "song" not in noun.kinds])
    place = rng.choice(lexicon.PLACES)
    determiners = ("a",) if "person" in noun.kinds else ("a", "number")
    phrase = noun_phrase(rng, noun, determiners=determiners, adjective=0.6, bare_zh=False)
    past = rng.random() < 0.4
    time = rng.choice([t for t in lexicon.TIMES if t.tenses == {"past", "negative"}]) if past else None
    plural = bool(phrase.ja_count)
    be = ("were" if plural else "was") if past else ("are" if plural else "is")
    en = f"There {be} {phrase.en} {place.preposition} {place.en}" + (f" {time.en}" if time else "") + "."
    inside = place.zh_inside if place.zh_inside.endswith(("里", "边")) else place.zh + "里"
    if place.en[0].isupper():
        inside = place.zh
    exist = ("い" if noun.animate else "あり") + ("ました" if past else "ます")
    if noun.animate and noun.en == "fish":
        exist = "いました" if past else "います"
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
    return list(_distinct(count, Random(f"sentences {seed} {split} {vocabulary}"), split, vocabulary))


def _distinct(count: int, rng: Random, split: Split, vocabulary: Vocabulary) -> Iterator[Sentence]:
    seen: set[str] = set()
    while len(seen) < count:
        sentence = draw(rng)
        if split != "any" and sentence.held_out != (split == "test"):
            continue
        if vocabulary != "all" and sentence.rare != (vocabulary == "rare"):
            continue
        if sentence.en not in seen:
            seen.add(sentence.en)
            yield sentence


def _list_item(rng: Random) -> NounPhrase:
    noun = rng.choice(lexicon.PERSONS + lexicon.THINGS)
    determiners = ("a", "the", "my", *(() if "person" in noun.kinds else ("number", "number")))
    return noun_phrase(rng, noun, determiners=determiners, adjective=0.5, bare_zh=False)


def _loose_word(rng: Random) -> str:
    pools = (lexicon.PERSONS, lexicon.THINGS, lexicon.ADJECTIVES, lexicon.VERBS, lexicon.GIFTS, lexicon.TIMES)
    pool = rng.choices((*pools, lexicon.PLACES, lexicon.VEHICLES), (4, 7, 4, 5, 1, 2, 3, 2))[0]
    entry: Any = rng.choice(pool)
    if isinstance(entry, Place):
        return str(entry.en)
    return str(entry.past if isinstance(entry, Verb | Gift) and rng.random() < 0.5 else entry.en)


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
                phrase = _list_item(rng)
                held_out |= any(is_held_out(pair) for pair in phrase.pairs)
                items.append(phrase.en)
        text = ", ".join(items) + "."
        if len(text.split()) <= 8 and (split == "any" or held_out == (split == "test")):
            result.append(text[0].upper() + text[1:])
    return result
