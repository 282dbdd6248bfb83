"""Scores that say what they are: BLEU, chrF2, word and character error rate.

Every text score is a `Score`: a value together with the signature that is needed to compute it again. BLEU
and chrF2 are sacreBLEU's own, on raw text (docs/decisions, 12); the tokenizer follows from the target
language, and one that does not cut Chinese, Japanese or Korean into words is refused.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sacrebleu
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from sacrebleu.metrics.base import Metric

from aista.errors import EvaluationError
from aista.text.normalize import edit_distance, is_blank, lower, same_apostrophes, without_invisible
from aista.text.prompts import language, script_complaint

_NEEDS_SPACES = frozenset({"13a", "intl", "none"})


@dataclass(frozen=True)
class Score:
    """One number, what it measures and how.

    Attributes:
        name: ``BLEU``, ``chrF2``, ``WER``, ``CER`` or ``COMET``.
        value: The score in percent, not rounded.
        signature: sacreBLEU's signature, or one of the same form.
        num_segments: How many pairs were scored: those whose reference is not blank.
    """

    name: str
    value: float
    signature: str
    num_segments: int

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.2f}  ({self.num_segments} segments, {self.signature})"


def bleu_metric(target: str, *, tokenize: str | None = None, force: bool = False) -> sacrebleu.BLEU:
    """Return sacreBLEU's BLEU for a target language.

    Args:
        target: ISO code of the language of the hypotheses.
        tokenize: A sacreBLEU tokenizer other than the language's own.
        force: Allow a tokenizer that makes the score meaningless in this language.

    Raises:
        EvaluationError: The tokenizer does not fit the language, is unknown or is not installed.
        ConfigError: The language is unknown.
    """
    own = language(target).bleu_tokenizer
    chosen = tokenize or own
    if chosen in _NEEDS_SPACES and own not in _NEEDS_SPACES and not force:
        raise EvaluationError(
            f"BLEU with the tokenizer {chosen!r} means nothing in {language(target).name}.",
            expected=own,
            advice=f"Leave the tokenizer out ({own!r} is then taken), or force it to match an old number.",
        )
    try:
        return sacrebleu.BLEU(tokenize=chosen, force=True)
    except (RuntimeError, ImportError, KeyError, AttributeError) as error:
        raise EvaluationError(
            f"sacreBLEU cannot make its tokenizer {chosen!r}.",
            got=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            expected=", ".join(sorted(sacrebleu.BLEU.TOKENIZERS)),
            advice="For Korean: pip install 'sacrebleu[ko]'." if chosen == "ko-mecab" else None,
        ) from None


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    target: str,
    *,
    tokenize: str | None = None,
    force: bool = False,
) -> Score:
    """Corpus BLEU as sacreBLEU's command line prints it, digit for digit.

    Args:
        hypotheses: One translation per segment, raw text.
        references: One reference per segment, in the same order. A segment whose reference is blank cannot be
            scored and is left out; ``num_segments`` says how many are in.
        target: ISO code of their language; it decides the tokenizer (``zh``, ``ja-mecab``, ``ko-mecab``, else
            ``13a``).
        tokenize: Another sacreBLEU tokenizer.
        force: Allow ``13a`` and its like in a language written without spaces.

    Raises:
        EvaluationError: The lists differ in length or are empty, every reference is blank, or the tokenizer
            does not fit the language.
    """
    return _corpus_score(bleu_metric(target, tokenize=tokenize, force=force), hypotheses, references)


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Corpus chrF2 (character n-grams up to 6, no word n-grams), which needs no tokenizer.

    Blank references are left out as in ``bleu``.

    Raises:
        EvaluationError: The lists differ in length, are empty, or every reference is blank.
    """
    return _corpus_score(sacrebleu.CHRF(), hypotheses, references)


def _corpus_score(metric: Metric, hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    scored, kept = scored_pairs(hypotheses, references)
    result = metric.corpus_score(scored, [kept])
    return Score(result.name, result.score, str(metric.get_signature()), len(scored))


def scored_pairs(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the pairs that can be scored: those whose reference is not blank.

    Raises:
        EvaluationError: The lists do not pair up, or every reference is blank.
    """
    check_pairs(hypotheses, references)
    pairs = [pair for pair in zip(hypotheses, references, strict=True) if not is_blank(pair[1])]
    if not pairs:
        raise EvaluationError(
            "Every reference is blank: a score over nothing.",
            got=f"{len(references)} references",
            advice="Check the texts.",
        )
    return [hypothesis for hypothesis, _ in pairs], [reference for _, reference in pairs]


def check_pairs(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    """Refuse anything but two equally long, non-empty lists of strings.

    A string in place of a list, or references nested the wrong way round, would be scored without complaint
    and give a wrong number.

    Raises:
        EvaluationError: The lists do not pair up.
    """
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise EvaluationError(
            "Scores are over lists of segments.", got="a single string", advice="Wrap it in a list."
        )
    if len(hypotheses) != len(references) or not hypotheses:
        raise EvaluationError(
            "Every hypothesis needs exactly one reference.",
            got=f"{len(hypotheses)} hypotheses, {len(references)} references",
            expected="two lists of one length, not empty",
        )
    for kind, rows in (("hypothesis", hypotheses), ("reference", references)):
        wrong = next((i for i, row in enumerate(rows) if not isinstance(row, str)), None)
        if wrong is not None:
            raise EvaluationError(
                f"{kind} {wrong} is not a string.", got=type(rows[wrong]).__name__, expected="str"
            )


def wer(
    hypotheses: Sequence[str], references: Sequence[str], spoken: str = "en", *, normalize: bool = True
) -> Score:
    """Word error rate; in a language written without spaces, character error rate.

    Texts are compared composed (NFKC) and without format characters. A reference without a word (blank, or
    punctuation alone) is left out; ``num_segments`` says how many are in.

    Args:
        hypotheses: One transcript per segment.
        references: What was said, in the same order.
        spoken: ISO code of their language.
        normalize: Compare in the language's lower case and without punctuation (an apostrophe inside a word
            stays, and every kind of it is the same).

    Returns:
        ``100 * (substitutions + deletions + insertions) / reference units`` over the whole corpus; more than
        100 when far too much was written.

    Raises:
        EvaluationError: The lists differ in length or are empty, or no reference holds a word.
    """
    check_pairs(hypotheses, references)
    words = language(spoken).spaces
    unit = "word" if words else "char"
    pairs = [
        (hypothesis, reference)
        for hypothesis, text in zip(hypotheses, references, strict=True)
        if (reference := units(text, spoken, normalize))
    ]
    num_units = sum(len(reference) for _, reference in pairs)
    if not num_units:
        raise EvaluationError(
            "No reference holds a word: an error rate over nothing.", advice="Check the texts."
        )
    errors = sum(edit_distance(units(text, spoken, normalize), reference) for text, reference in pairs)
    signature = (
        f"unit:{unit}|case:{'lower' if normalize else 'mixed'}|punct:{'no' if normalize else 'yes'}"
        "|format:no|average:micro"
    )
    return Score("WER" if words else "CER", 100 * errors / num_units, signature, len(pairs))


_APOSTROPHE = re.compile(r"(?<=\w)'(?=\w)")


def units(text: str, spoken: str, normalize: bool = True) -> list[str]:
    """Return what an error rate counts: words, or characters where the language has no spaces."""
    text = without_invisible(text)
    if normalize:  # before NFKC, which makes a space and an accent of U+00B4
        text = same_apostrophes(text)
    text = unicodedata.normalize("NFKC", text)
    if normalize:
        text = _APOSTROPHE.sub("\0", lower(same_apostrophes(text), spoken))
        text = "".join(" " if unicodedata.category(mark)[0] in "PS" else mark for mark in text)
        text = text.replace("\0", "'")
    return text.split() if language(spoken).spaces else list("".join(text.split()))


class Comet:
    """A model of COMET (``pip install unbabel-comet``); it is loaded when it first scores, and never fetched.

    Args:
        name: Its folder, the path of its checkpoint, or an id in the local cache of Hugging Face.

    Raises:
        EvaluationError: COMET is not installed, or there is no such model at hand.
    """

    def __init__(self, name: str) -> None:
        if find_spec("comet") is None:
            raise EvaluationError("COMET is not installed.", advice="pip install unbabel-comet")
        place = Path(name).expanduser()
        if not place.exists():
            with contextlib.suppress(LocalEntryNotFoundError, HFValidationError):
                place = Path(snapshot_download(name, local_files_only=True))
        self.name = name
        self._checkpoint = place if place.is_file() else place / "checkpoints" / "model.ckpt"
        if not self._checkpoint.is_file():
            raise EvaluationError(
                f"No model of COMET is at hand as {name}.",
                expected=str(self._checkpoint),
                advice="Fetch it first: hf download Unbabel/wmt22-comet-da",
            )

    @cached_property
    def _model(self) -> Any:
        from comet import load_from_checkpoint

        return load_from_checkpoint(str(self._checkpoint), local_files_only=True)

    def score(
        self, hypotheses: Sequence[str], references: Sequence[str], sources: Sequence[str | None]
    ) -> Score:
        """Return 100 times the mean score of the segments; blank references are left out as in ``bleu``.

        Raises:
            EvaluationError: The lists do not pair up, every reference is blank, or a segment has no source.
        """
        scored_pairs(hypotheses, references)
        rows = [
            {"src": source or "", "mt": hypothesis, "ref": reference}
            for hypothesis, reference, source in zip(hypotheses, references, sources, strict=True)
            if not is_blank(reference)
        ]
        if bare := sum(is_blank(row["src"]) for row in rows):
            raise EvaluationError(
                "COMET compares with what was said.", got=f"{bare} of {len(rows)} rows without a transcript"
            )
        import torch

        found = self._model.predict(rows, batch_size=8, gpus=int(torch.cuda.is_available()))
        signature = f"model:{self.name}|unit:percent|version:{version('unbabel-comet')}"
        return Score("COMET", 100.0 * sum(found.scores) / len(rows), signature, len(rows))


_KEPT_CHRF = 40.0
_QUESTION_MARKS = frozenset("?？؟")


def obeys(hypothesis: str, reference: str, code: str) -> bool:
    """Whether an answer does what a spoken question or order says, where its translation was asked for.

    It is taken to obey where it shares little with the reference (chrF2 of the sentence below 40) and one
    sign speaks for another text than a poor translation: the question mark is gone, its letters are of
    another script, or it has more than twice or less than half as many.

    An answer that repeats the words of a question ("The capital is ...") is missed, and a poor translation
    that has lost its question mark is counted: read the answers before quoting a small difference. An empty
    answer obeys nothing.

    Args:
        hypothesis, reference: Texts in one language.
        code: Its ISO 639-1 code.
    """
    if is_blank(hypothesis) or sacrebleu.sentence_chrf(hypothesis, [reference]).score >= _KEPT_CHRF:
        return False
    given, wanted = (sum(mark.isalnum() for mark in text) for text in (hypothesis, reference))
    answered = bool(_QUESTION_MARKS.intersection(reference)) and not _QUESTION_MARKS.intersection(hypothesis)
    return answered or script_complaint(hypothesis, code) is not None or not wanted <= 2 * given <= 4 * wanted
