"""Numbers that others published on CoVoST2, and where: what stands in a table beside what was run here.

None of these was measured by this package. BLEU on the CoVoST2 test set; the paper does not name its
tokenizer (it copies Qwen's numbers, whose script scores raw text with ``zh`` and ``ja-mecab``).
"""

from __future__ import annotations

from dataclasses import dataclass


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


def reported(system: str) -> Reported | None:
    """Return what was published of a system, if anything was."""
    return next((row for row in REPORTED if row.system == system), None)


def note(system: str) -> str:
    """Say in a line what is known of a system that cannot be run."""
    row = reported(system)
    if row is None:
        return "nothing is known of it"
    numbers = ", ".join(f"{direction} {value}" for direction, value in row.bleu.items())
    return f"{row.title} is known by its reported numbers only ({numbers}; {row.source}): {row.note}"
