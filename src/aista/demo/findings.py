"""What came out, in words: sentences that follow from the numbers and say when a difference may be luck."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aista.evaluation.page import signed
from aista.text.languages import language

LEVEL = 0.05
# Table 2 of the paper: base and AI-STA on CoVoST2 with Qwen2-7B.
PAPER = {"zh": (45.3, 46.0), "ja": (31.0, 31.4)}

Comparisons = Mapping[str, Mapping[str, Any]]


def headline(results: Mapping[str, Any], comparisons: Comparisons) -> str:
    """Return one sentence for the head of the page."""
    signs = []
    for name in _translation_scores(results):
        gain, p = _gain(results, comparisons, name)
        signs.append(0 if p is None or p >= LEVEL else math.copysign(1, gain))
    if not signs:
        return "What speech and text have in common inside a language model."
    if all(sign > 0 for sign in signs):
        return "Here, alignment made the translation of speech better."
    if all(sign < 0 for sign in signs):
        return "Here, alignment made the translation of speech worse."
    if any(signs):
        return "Here, alignment changed the translation of speech, not always for the better."
    return "Here, alignment left the translation of speech as good as it was."


def findings(results: Mapping[str, Any], comparisons: Comparisons) -> list[tuple[str, str]]:
    """Return what the numbers say as (subject, sentences), the paper's claims in their order."""
    rows: list[tuple[str, str] | None] = [_layers(results)]
    rows += [_translation(results, comparisons, name) for name in _translation_scores(results)]
    rows += [
        _text_translation(results, comparisons, name) for name in _translation_scores(results, "mt_bleu_")
    ]
    rows += [_alignment(results), _accuracy(results)]
    return [row for row in rows if row is not None]


def _translation_scores(results: Mapping[str, Any], prefix: str = "bleu_") -> list[str]:
    systems = results["systems"]
    return [name for name in systems["base"] if name.startswith(prefix) and name in systems["ai_sta"]]


def _gain(results: Mapping[str, Any], comparisons: Comparisons, name: str) -> tuple[float, float | None]:
    systems = results["systems"]
    p = comparisons.get(name, {}).get("p_value")
    return systems["ai_sta"][name] - systems["base"][name], p


def _layers(results: Mapping[str, Any]) -> tuple[str, str]:
    mrr, chance, chosen = results["mrr_by_layer"], results["chance_mrr"], results["selected_layers"]
    best = max(range(len(mrr)), key=mrr.__getitem__)
    text = (
        f"Speech finds its own transcript best at layer {best}: mean reciprocal rank {mrr[best]:.2f} among "
        f"{results['num_pairs']} candidates, {mrr[best] / chance:.0f} times chance. "
    )
    if not chosen:
        return "Where the two meet", text + "No layer passes the threshold, so none was aligned."
    names = " and ".join(filter(None, [", ".join(map(str, chosen[:-1])), str(chosen[-1])]))
    early = max(chosen) <= len(mrr) // 2
    shape = "As in the paper, the early layers carry it." if early else (
        "The paper chose early layers alone; here a late one passes too."
    )  # fmt: skip
    return "Where the two meet", text + f"Chosen: layer{'s' * (len(chosen) > 1)} {names}. {shape}"


def _translation(results: Mapping[str, Any], comparisons: Comparisons, name: str) -> tuple[str, str]:
    code = name.removeprefix("bleu_")
    paper = ""
    if code in PAPER:
        before, after = PAPER[code]
        paper = f" The paper reports {signed(after - before)} ({before} to {after}) with Qwen2-7B on CoVoST2."
    return f"Speech into {language(code).name}", _change(results, comparisons, name) + paper


def _text_translation(results: Mapping[str, Any], comparisons: Comparisons, name: str) -> tuple[str, str]:
    code = name.removeprefix("mt_bleu_")
    return (
        f"Text into {language(code).name}, never trained",
        "The same prompt with the transcript where the speech would stand: "
        + _change(results, comparisons, name)[:1].lower()
        + _change(results, comparisons, name)[1:],
    )


def _change(results: Mapping[str, Any], comparisons: Comparisons, name: str) -> str:
    gain, p = _gain(results, comparisons, name)
    systems = results["systems"]
    text = f"Base {systems['base'][name]:.1f}, AI-STA {systems['ai_sta'][name]:.1f} BLEU ({signed(gain)}). "
    if p is None:
        return text + "Whether that is more than luck was not tested."
    if p >= LEVEL:
        return text + f"That is within what another draw of sentences could give (p = {p:.2f})."
    judged = "AI-STA is better" if gain > 0 else "AI-STA is worse"
    return text + f"{judged}, by more than another draw of sentences would explain (p {_p(p)})."


def _p(p: float) -> str:
    return "< 0.01" if p < 0.01 else f"= {p:.2f}"


def _alignment(results: Mapping[str, Any]) -> tuple[str, str] | None:
    base, system = (results["systems"][key].get("log_wasserstein") for key in ("base", "ai_sta"))
    if base is None or system is None:
        return None
    factor = math.exp(abs(base - system))
    way = "less" if system < base else "more"
    size = f"{factor:.1f} times {way}" if factor >= 1.05 else "the same, within a few percent,"
    return "How close they are", (
        f"Moving speech onto its transcript at the chosen layers costs {size} than in the base model "
        f"(mean log W {base:.2f} to {system:.2f}). A smaller cost is partly a smaller norm: it is no proof "
        "of a better translation."
    )


def _accuracy(results: Mapping[str, Any]) -> tuple[str, str] | None:
    base, system = (results["systems"][key].get("token_accuracy") for key in ("base", "ai_sta"))
    if base is None or system is None:
        return None
    return "Word for word", (
        f"Shown the right beginning, the base model predicts {base:.1f} % of the next tokens of held-out "
        f"answers, AI-STA {system:.1f} %."
    )
