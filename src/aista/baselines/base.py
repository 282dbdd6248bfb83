"""What every baseline is: a ``SpeechTranslator`` with its own prompts, its own search, and a card.

What others published of such systems stands in ``REPORTED``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from aista.errors import ConfigError
from aista.inference.translating import GenerationSettings, Request, SpeechTranslator
from aista.model.bases import describe, locate
from aista.text.prompts import language

_HASHED_WHOLE_BYTES = 64_000_000


class Baseline(SpeechTranslator):
    """A system of other people, run here.

    Attributes:
        own_generation: How its authors search, as far as they say.
        card: What identifies it in results: ids, revisions, prompts. Anything JSON holds.
        options: A frozen dataclass of what it takes, its first argument; None: it takes keyword arguments.

    Args:
        generation: Search settings that differ from its own.
        device: ``cpu``, ``cuda``, ...; by default a GPU where there is one.
    """

    own_generation = GenerationSettings()
    options: ClassVar[Callable[..., Any] | None] = None

    def __init__(self, *, generation: dict[str, Any] | None = None, device: str | None = None) -> None:
        changed = self.own_generation.model_dump() | (generation or {})
        self.generation = GenerationSettings.of(changed, source=f"the generation of {type(self).__module__}")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.card: dict[str, Any] = {}


def identity(source: str, revision: str | None = None) -> dict[str, Any]:
    """Identify weights for the card: id, commit, and a digest of the files.

    Cost:
        Small files are read; of a file of 64 MB or more only the size counts.

    Raises:
        CheckpointError: They are nowhere.
    """
    place = locate(source, revision=revision)
    digest = hashlib.sha256()
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        if path.is_file():
            size = path.stat().st_size
            content = path.read_bytes() if size < _HASHED_WHOLE_BYTES else b""
            digest.update(f"{path.name} {size} ".encode() + hashlib.sha256(content).digest())
    name = source if source.startswith("aista:") else Path(source).name if place == Path(source) else source
    return {"source": name, "revision": describe(source, revision=revision)["revision"] or revision} | {
        "fingerprint": digest.hexdigest()[:16]
    }


def worded(prompts: dict[str, str], request: Request, override: str | None = None) -> str:
    """Return a system's prompt: its own for the language asked for, or the general one, filled in.

    Args:
        prompts: ``task-language`` or ``task`` -> wording. ``{language}`` is the English name of the language
            of the answer, ``{target}`` its ISO code, ``{source}`` that of the spoken language.
        request: What is asked for.
        override: A wording to use for ``st`` instead.

    Raises:
        ConfigError: There is no prompt for the task, or the override has other fields.
    """
    wording = prompts.get(f"{request.task}-{request.target}", prompts.get(request.task))
    if override is not None and request.task == "st":
        wording = override
    if wording is None:
        raise ConfigError(f"There is no prompt for the task {request.task!r}.", expected=", ".join(prompts))
    name = language(request.target).name
    try:
        return wording.format(language=name, source=request.source, target=request.target)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            "The prompt cannot be filled in.",
            got=f"{wording!r}: {error}",
            expected="{language}, {source} and {target} and no other field",
        ) from None


# ---- numbers that others published on CoVoST2: what stands in a table beside what was run here ----
#
# None of these was measured by this package. BLEU on the CoVoST2 test set; the paper does not name its
# tokenizer (it copies Qwen's numbers, whose script scores raw text with ``zh`` and ``ja-mecab``).


@dataclass(frozen=True)
class Reported:
    """One published row.

    Attributes:
        system: Key of the row; the module name where the system can be run here.
        title: What the source calls it.
        bleu: Direction -> BLEU.
        source: Where the numbers stand.
        runnable: Whether a module of this package, or a method of ours, produces the row.
        note: What a reader should know.
    """

    system: str
    title: str
    bleu: dict[str, float]
    source: str
    runnable: bool
    note: str = ""


_TABLE_2 = "AI-STA paper, Table 2"

REPORTED: tuple[Reported, ...] = (
    Reported("salmonn", "SALMONN", {"en-zh": 33.1, "en-ja": 22.7}, _TABLE_2, True, "En-Ja zero-shot"),
    Reported(
        "blsp_kd", "BLSP-KD", {"en-zh": 41.3, "en-ja": 21.3}, _TABLE_2, False,
        "no code or weights are public; the method `distillation` has its idea (KL between the output "
        "distributions given speech and given text) and can be trained here",
    ),
    Reported(
        "qwen_audio", "Qwen-Audio", {"en-zh": 41.5, "en-ja": 23.5}, _TABLE_2, True,
        "41.5 also in the README of Qwen-Audio; the origin of 23.5 was not found",
    ),
    Reported(
        "qwen2_audio", "Qwen2-Audio", {"en-zh": 45.2, "en-ja": 28.6}, _TABLE_2, True,
        "45.2 also in the README of Qwen2-Audio, of the base model; the origin of 28.6 was not found",
    ),
    Reported("vicuna_base", "LSM with Vicuna-13B", {"en-zh": 36.5, "en-ja": 29.8}, _TABLE_2, True),
    Reported("vicuna_ai_sta", "  with AI-STA", {"en-zh": 37.6, "en-ja": 30.2}, _TABLE_2, True),
    Reported("qwen2_base", "LSM with Qwen2-7B", {"en-zh": 45.3, "en-ja": 31.0}, _TABLE_2, True),
    Reported("qwen2_ai_sta", "  with AI-STA", {"en-zh": 46.0, "en-ja": 31.4}, _TABLE_2, True),
    Reported(
        "cot_st", "CoT-ST", {"en-zh": 47.7, "en-ja": 30.8}, "arXiv 2409.19510", False,
        "not in the paper's table, and above it on En-Zh",
    ),
)  # fmt: skip


def note(system: str) -> str:
    """Say in a line what is known of a system that cannot be run."""
    row = next((row for row in REPORTED if row.system == system), None)
    if row is None:
        return "nothing is known of it"
    numbers = ", ".join(f"{direction} {value}" for direction, value in row.bleu.items())
    return f"{row.title} is known by its reported numbers only ({numbers}; {row.source}): {row.note}"
