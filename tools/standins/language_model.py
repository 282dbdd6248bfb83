"""The stand-in language models: small ones that translate, repeat and caption text.

One is a Qwen2 in the chat form, the other a Llama in Vicuna's form: the paper's two backbones.

The source text stands exactly where speech tokens will stand later. A part of the sources is made
irregular (words stuttered, split, lower-cased, without punctuation): a large language model shrugs such
input off, and speech tokens are such input.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from aista.demo import grammar
from aista.text import prompts
from tools.standins import loop, sounds, tokenizer

SOURCE_WEIGHT = 0.3  # of the loss on the source text against the loss on the answer
TASKS = ("zh", "ja", "repeat", "phrase", "caption", "list_zh", "list_ja", "list_en")
# Sentences first; then also lists of unrelated words, which no guess gets right.
FIRST_WEIGHTS = (10, 10, 6, 3, 2, 0, 0, 0)
SECOND_WEIGHTS = (8, 8, 5, 5, 2, 2, 2, 5)
IRREGULAR_SHARE = 0.35


@dataclass(frozen=True)
class Recipe:
    """Size, data and schedule of a stand-in language model.

    Attributes:
        kind: ``model_type`` of transformers: ``qwen2`` or ``llama``.
        template: Its prompt template.
    """

    kind: str = "qwen2"
    template: str = "chatml"
    hidden_size: int = 128
    num_layers: int = 6
    num_heads: int = 4
    num_kv_heads: int = 2
    intermediate_size: int = 384
    num_sentences: int = 40_000
    num_phrases: int = 10_000
    num_captions: int = 4_000
    num_lists: int = 30_000
    num_examples: int = 160_000
    seed: int = 0
    first: loop.Schedule = field(
        default_factory=lambda: loop.Schedule(steps=2_400, batch_size=64, peak_learning_rate=3e-3)
    )
    second: loop.Schedule = field(
        default_factory=lambda: loop.Schedule(steps=900, batch_size=64, peak_learning_rate=1.5e-3)
    )


RECIPE = Recipe()
LLAMA = replace(RECIPE, kind="llama", template="vicuna", num_kv_heads=4, seed=1)
NANO = Recipe(
    hidden_size=48, num_layers=2, intermediate_size=96, num_sentences=400, num_phrases=60, num_captions=40,
    num_lists=40, num_examples=600,
    first=loop.Schedule(steps=20, batch_size=16, peak_learning_rate=3e-3, warmup_steps=5),
    second=loop.Schedule(steps=5, batch_size=16, peak_learning_rate=1e-3, warmup_steps=2),
)  # fmt: skip


def recipe(name: str, *, nano: bool = False) -> Recipe:
    """Return the recipe of a stand-in by its name, ``language_model`` or ``llama``."""
    full = LLAMA if name == "llama" else RECIPE
    return replace(NANO, kind=full.kind, template=full.template, seed=full.seed) if nano else full


@dataclass(frozen=True)
class Example:
    """One prompt and its answer."""

    source: str
    instruction: str
    answer: str


def irregular(text: str, rng: Random) -> str:
    """Make a text irregular the way recognised speech is, without taking a word away."""
    words = text.split(" ")
    result: list[str] = []
    for word in words:
        cut = rng.randint(1, max(1, len(word) - 1))
        chance = rng.random()
        if chance < 0.10:
            result += [word, word]
        elif chance < 0.16:
            result += [word[:cut], word]
        elif chance < 0.24 and len(word) > 3:
            result += [word[:cut], word[cut:]]
        elif chance < 0.27:
            result += ["uh", word]
        else:
            result.append(word)
    noisy = " ".join(result)
    if rng.random() < 0.4:
        noisy = noisy.lower()
    if rng.random() < 0.4:
        noisy = noisy.replace(".", "").replace(",", "")
    return noisy


def examples(recipe: Recipe, phase: int) -> list[Example]:
    """Draw the training text of phase 1 or 2: every word, no held-out pair but where loose words meet."""
    rng = Random(f"language model {recipe.seed}" + (" second" if phase == 2 else ""))
    sentences = grammar.sentences(recipe.num_sentences, recipe.seed)
    phrases = grammar.phrases(recipe.num_phrases, recipe.seed)
    lists = dictionary_lists(recipe.num_lists, recipe.seed)
    described = [sounds.draw_sound(rng) for _ in range(recipe.num_captions)]
    weights = FIRST_WEIGHTS if phase == 1 else SECOND_WEIGHTS
    drawn = []
    for task in rng.choices(TASKS, weights, k=recipe.num_examples):
        if task == "caption":
            drawn.append(_caption_example(rng.choice(described), rng))
            continue
        kind, _, target = task.rpartition("_")
        if kind == "list":
            listed = rng.choice(lists)
            text, answer = listed.en, getattr(listed, target)
        else:
            sentence = rng.choice(sentences)
            text = rng.choice(phrases) if task == "phrase" else sentence.en
            answer = {"zh": sentence.zh, "ja": sentence.ja}.get(task, text)
        translated = target in ("zh", "ja")
        wordings = prompts.instructions("st", target) if translated else prompts.instructions("asr", "en")
        source = irregular(text, rng) if rng.random() < IRREGULAR_SHARE else text
        drawn.append(Example(source, rng.choice(wordings), answer))
    return drawn


def _caption_example(sound: sounds.Sound, rng: Random) -> Example:
    source = rng.choice(
        (sound.caption, " ".join(sound.tags), ", ".join(event.caption for event in sound.events))
    )
    return Example(source, rng.choice(prompts.instructions("aac", None)), sound.caption)


def tokenizer_texts(recipe: Recipe) -> list[str]:
    """What the tokenizer is trained on: the words of the whole grammar, once in a while without capitals."""
    rng = Random(f"tokenizer {recipe.seed}")
    sentences = grammar.sentences(min(6_000, recipe.num_sentences), recipe.seed, split="any")
    texts = [text for sentence in sentences for text in (sentence.en, sentence.zh, sentence.ja)]
    texts += grammar.phrases(min(1_500, recipe.num_phrases), recipe.seed, split="any")
    return texts + [sounds.draw_sound(rng).caption for _ in range(min(1_000, recipe.num_captions))]


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example and the loss weight of each as a target."""

    ids: list[int]
    weights: list[float]


def encode(tokens: PreTrainedTokenizerBase, drawn: list[Example], template: str = "chatml") -> list[Encoded]:
    """Tokenise the pieces of the prompt separately, as ``aista.model`` does."""

    def ids(texts: list[str]) -> list[list[int]]:
        return tokens(texts, add_special_tokens=False)["input_ids"]

    rendered = [prompts.render(template, example.instruction) for example in drawn]
    pieces = [
        [_start(tokens, template) + row for row in ids([prompt.prefix for prompt in rendered])],
        ids([example.source for example in drawn]),
        ids([prompt.suffix for prompt in rendered]),
        ids([example.answer + prompt.end for example, prompt in zip(drawn, rendered, strict=True)]),
    ]
    weight = (0.0, SOURCE_WEIGHT, 0.0, 1.0)
    return [
        Encoded(
            [token for part in parts for token in part],
            [w for part, w in zip(parts, weight, strict=True) for _ in part],
        )
        for parts in map(list, zip(*pieces, strict=True))
    ]


def _start(tokens: PreTrainedTokenizerBase, template: str) -> list[int]:
    """Return the beginning-of-sequence token, where template and tokenizer have one."""
    bos = tokens.bos_token_id
    return [bos] if prompts.template(template).bos and isinstance(bos, int) else []


def _collate(batch: list[Encoded], pad: int) -> tuple[Tensor, Tensor]:
    longest = max(len(entry.ids) for entry in batch)
    ids = torch.full((len(batch), longest), pad)
    weights = torch.zeros(len(batch), longest)
    for row, entry in enumerate(batch):
        ids[row, : len(entry.ids)] = torch.tensor(entry.ids)
        weights[row, : len(entry.ids)] = torch.tensor(entry.weights)
    return ids, weights


def new_model(recipe: Recipe, tokens: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A fresh model of the real class."""
    torch.manual_seed(recipe.seed)
    config = AutoConfig.for_model(
        recipe.kind,
        vocab_size=len(tokens), hidden_size=recipe.hidden_size, num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads, num_key_value_heads=recipe.num_kv_heads,
        intermediate_size=recipe.intermediate_size, max_position_embeddings=512, tie_word_embeddings=False,
        bos_token_id=tokens.bos_token_id, eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def train(
    folder: Path | str, recipe: Recipe = RECIPE, *, progress: loop.Progress | None = None
) -> dict[str, Any]:
    """Train tokenizer and model into a folder that ``AutoModelForCausalLM`` loads; a finished folder is kept.

    Returns:
        The card: data, schedule, minutes (scores are added by ``standins.evaluate``).
    """
    folder, partial = Path(folder), Path(f"{folder}.part")
    tokens = tokenizer.train(tokenizer_texts(recipe), template=recipe.template)
    model = new_model(recipe, tokens)

    def loss_of(batch: list[Encoded]) -> Tensor:
        ids, weights = _collate(batch, tokens.pad_token_id)
        # Padding stands at the right: causal attention needs no mask.
        logits = model(input_ids=ids[:, :-1]).logits
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()

    def save() -> None:
        model.save_pretrained(partial)
        tokenizer.save(tokens, partial)

    minutes = 0.0
    for phase, schedule in ((1, recipe.first), (2, recipe.second)):
        rng = Random(f"batches {recipe.seed}" + (" second" if phase == 2 else ""))
        drawn = encode(tokens, examples(recipe, phase), recipe.template)
        batches = loop.length_grouped(drawn, lambda entry: len(entry.ids), schedule.batch_size, rng)
        minutes += loop.fit(model, batches, loss_of, schedule, progress=progress, save=save)
        loop.round_to_bfloat16(model)
    loop.save_bfloat16(model, partial)
    tokenizer.save(tokens, partial)
    card = {
        "what": f"stand-in language model ({type(model).__name__}), trained from nothing on synthetic text",
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": round(minutes, 1),
    }
    loop.publish(partial, folder, card)
    return card


@torch.no_grad()
def answer(
    model: PreTrainedModel,
    tokens: PreTrainedTokenizerBase,
    sources: list[str],
    task: str,
    target: str,
    template: str = "chatml",
) -> list[str]:
    """Greedy answers of the model to texts that stand where speech will stand."""
    prompt = prompts.render(template, prompts.instruction(task, target))
    pad, end = tokens.pad_token_id, tokens.convert_tokens_to_ids(prompt.end)
    answers = []
    generate: Any = model.generate  # which the type of PreTrainedModel does not tell
    for start in range(0, len(sources), 50):
        pieces = [prompt.prefix, *sources[start : start + 50], prompt.suffix]
        before, *texts, after = tokens(pieces, add_special_tokens=False)["input_ids"]
        rows = [[*_start(tokens, template), *before, *text, *after] for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        new = generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=pad,
        )[:, longest:]
        answers += tokens.batch_decode(new, skip_special_tokens=True)
    return answers


@dataclass(frozen=True)
class Listed:
    """Loose words in three languages."""

    en: str
    zh: str
    ja: str


def _entries() -> list[Listed]:
    nouns = [Listed(noun.en, noun.zh, noun.ja) for noun in (*grammar.PERSONS, *grammar.THINGS)]
    adjectives = [Listed(adjective.en, adjective.zh, adjective.ja) for adjective in grammar.ADJECTIVES]
    verbs = [Listed(verb.past, verb.zh, verb.ja + "ました") for verb in grammar.VERBS]
    places = [Listed(place.en, place.zh, place.ja) for place in grammar.PLACES]
    phrases = [Listed(entry.en, entry.zh, entry.ja) for entry in (*grammar.TIMES, *grammar.VEHICLES)]
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
