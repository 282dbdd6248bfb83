"""Short lists of words and noun phrases: utterances that no language model can guess."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from aista.demo import grammar, lexicon
from aista.demo.lexicon import Gift, Place, Verb


def _list_item(rng: Random) -> grammar.NounPhrase:
    noun = rng.choice(lexicon.PERSONS + lexicon.THINGS)
    determiners = ("a", "the", "my", *(() if "person" in noun.kinds else ("number", "number")))
    return grammar.noun_phrase(rng, noun, determiners=determiners, adjective=0.5, bare_zh=False)


def _loose_word(rng: Random) -> str:
    pools = (lexicon.PERSONS, lexicon.THINGS, lexicon.ADJECTIVES, lexicon.VERBS, lexicon.GIFTS, lexicon.TIMES)
    pool = rng.choices((*pools, lexicon.PLACES, lexicon.VEHICLES), (4, 7, 4, 5, 1, 2, 3, 2))[0]
    entry: Any = rng.choice(pool)
    if isinstance(entry, Place):
        return str(entry.en)
    return str(entry.past if isinstance(entry, Verb | Gift) and rng.random() < 0.5 else entry.en)


def phrases(count: int, seed: int, *, split: grammar.Split = "train") -> list[str]:
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
                held_out |= any(grammar.is_held_out(pair) for pair in phrase.pairs)
                items.append(phrase.en)
        text = ", ".join(items) + "."
        if len(text.split()) <= 8 and (split == "any" or held_out == (split == "test")):
            result.append(text[0].upper() + text[1:])
    return result


@dataclass(frozen=True)
class Listed:
    """Loose words in three languages."""

    en: str
    zh: str
    ja: str


def _entries() -> list[Listed]:
    nouns = [Listed(noun.en, noun.zh, noun.ja) for noun in (*lexicon.PERSONS, *lexicon.THINGS)]
    adjectives = [Listed(adjective.en, adjective.zh, adjective.ja) for adjective in lexicon.ADJECTIVES]
    verbs = [Listed(verb.past, verb.zh, verb.ja + "ました") for verb in lexicon.VERBS]
    places = [Listed(place.en, place.zh, place.ja) for place in lexicon.PLACES]
    phrases = [Listed(entry.en, entry.zh, entry.ja) for entry in (*lexicon.TIMES, *lexicon.VEHICLES)]
    return nouns + adjectives + verbs + places + phrases


def dictionary_lists(count: int, seed: int) -> list[Listed]:
    """Draw lists of one to seven unrelated words, each with its translation in the same order.

    A small language model that has only seen sentences repeats and translates what usually stands
    together; from these it learns to keep to the words it was given.
    """
    rng, entries, result = Random(f"dictionary {seed}"), _entries(), []
    for _ in range(count):
        drawn = rng.choices(entries, k=rng.randint(1, 7))
        comma = "," if rng.random() < 0.5 else ""
        en = f"{comma} ".join(entry.en for entry in drawn) + "."
        zh, ja = ("、".join(getattr(entry, code) for entry in drawn) + "。" for code in ("zh", "ja"))
        result.append(Listed(en[0].upper() + en[1:], zh, ja))
    return result
