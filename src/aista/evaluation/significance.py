"""Is one system better than another, or only luckier? Paired bootstrap on the same segments (Koehn, 2004)."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import sacrebleu
from sacrebleu.significance import estimate_ci

from aista.data.manifest import Manifest
from aista.errors import EvaluationError
from aista.evaluation.decode import Hypothesis, read_hypotheses
from aista.evaluation.metrics import bleu_metric, scored_pairs
from aista.evaluation.results import RESULTS

_ROUNDING = 1e-9
TEST = "two-sided, centred, ties counted"
"""What the p-values are; whoever keeps them keeps this beside them."""


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same test set.

    Attributes:
        base, system: Their BLEU.
        base_half_width, system_half_width: Half the 95 % interval of each over the resamples.
        p_value: Probability of a difference at least this large, in either direction, if the systems were
            equally good.
        signature: sacreBLEU's signature with seed and number of resamples.
        num_segments: How many segments were compared: those whose reference is not blank.
    """

    base: float
    system: float
    base_half_width: float
    system_half_width: float
    p_value: float
    signature: str
    num_segments: int = 0

    @property
    def difference(self) -> float:
        """The system's score minus the base's."""
        return self.system - self.base


def paired_bootstrap(
    base: Sequence[str],
    system: Sequence[str],
    references: Sequence[str],
    target: str,
    *,
    num_resamples: int = 1000,
) -> Comparison:
    """Compare two systems' BLEU by a paired bootstrap over segments.

    With D the difference of the two scores and D_b that difference on resample b, p is the share of resamples
    with ``|D_b - D| >= |D|`` (ties count), both counted once more for the test set itself. Systems that score
    the same thus have p = 1. No paired test over k segments in which two systems differ can tell them apart
    with less than ``2 ** (1 - k)``, the smallest p of flipping their signs; p is never below that.

    Args:
        base: The baseline's hypotheses.
        system: The other system's hypotheses for the same segments.
        references: One reference per segment; blank ones are left out, as in ``bleu``.
        target: ISO code of the target language.
        num_resamples: How many test sets are drawn; the seed is sacreBLEU's (``SACREBLEU_SEED``, 12345).

    Raises:
        EvaluationError: The three lists do not pair up.

    Departs:
        sacreBLEU draws the same resamples but counts ``|D_b| - mean |D_b| > |D|``: one-sided where the
        systems differ, never above about 0.4 where they do not, and without ties, so that two systems that
        differ in nothing but spaces have its smallest p.
    """
    one, kept = scored_pairs(base, references)
    other, _ = scored_pairs(system, references)
    metric = bleu_metric(target)
    counts = np.array([_counts(texts, kept, target) for texts in (one, other)])  # (2, segments, 10)
    seed = os.environ.get("SACREBLEU_SEED", "12345").lower()
    rng = np.random.default_rng(None if seed == "none" else int(seed))
    draws = rng.choice(len(kept), size=(num_resamples, len(kept)))
    scores = np.array([[_bleu(rows[draw].sum(0)) for draw in draws] for rows in counts])
    whole = [metric.corpus_score(texts, [kept]).score for texts in (one, other)]
    difference = whole[1] - whole[0]
    reached = np.abs(scores[1] - scores[0] - difference) >= abs(difference) - _ROUNDING
    num_different = int((counts[0] != counts[1]).any(1).sum())
    signature = metric.get_signature()
    signature.update("bs", num_resamples)
    signature.update("seed", seed)
    return Comparison(
        base=whole[0],
        system=whole[1],
        base_half_width=estimate_ci(scores[0])[1],
        system_half_width=estimate_ci(scores[1])[1],
        p_value=max((float(reached.sum()) + 1) / (num_resamples + 1), min(1.0, 2.0 ** (1 - num_different))),
        signature=str(signature),
        num_segments=len(kept),
    )


@dataclass(frozen=True)
class Interval:
    """A difference with its 95 % interval over draws of seeds and sentences."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Two systems of the same seeds, answered or scored on the same sentences.

    Attributes:
        difference: Of the places of seeds, and of those of sentences by the size of the test set that they
            are of: the mean over both, and over the languages.
        num_seeds: How many there are.
        sizes: Of the test sets, each once; languages of one size share their draws.
    """

    difference: Callable[[np.ndarray, Mapping[int, np.ndarray]], float]
    num_seeds: int
    sizes: Sequence[int]


def bootstrap_over_seeds(*groups: Paired, num_resamples: int = 1000, seed: int = 12345) -> Interval:
    """Compare two systems of several seeds by a paired bootstrap over seeds and sentences.

    A resample draws seeds with replacement, each with both its runs, and sentences with replacement, the same
    for all runs. Of several groups, which share neither, each draws its own, and counts by its seeds.

    Args:
        groups: Seeds that have the same test sets.
        num_resamples: How often.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    weights = np.array([group.num_seeds for group in groups]) / sum(group.num_seeds for group in groups)
    drawn = [
        [
            group.difference(
                rng.choice(group.num_seeds, (group.num_seeds,)),
                {size: rng.choice(size, (size,)) for size in group.sizes},
            )
            for group in groups
        ]
        for _ in range(num_resamples)
    ]
    low, high = np.quantile(drawn @ weights, [0.025, 0.975])
    whole = [
        group.difference(np.arange(group.num_seeds), {size: np.arange(size) for size in group.sizes})
        for group in groups
    ]
    return Interval(float(whole @ weights), float(low), float(high))


def paired_hypotheses(
    systems: Mapping[str, tuple[Sequence[Sequence[str]], Sequence[Sequence[str]]]],
    references: Mapping[str, Sequence[str]],
) -> Paired:
    """Pair the answers of two systems for ``bootstrap_over_seeds``; differences are of corpus BLEU.

    Args:
        systems: Target language -> hypotheses of the base and of the system: one list per seed, in the same
            order, each with one text per sentence.
        references: Target language -> one reference per sentence. Languages of as many sentences are taken
            to have the same ones.

    Raises:
        EvaluationError: Seeds or sentences do not pair up.
    """
    seeds_of = {(len(base), len(other)) for base, other in systems.values()}
    lengths = {
        code: {len(texts) for runs in pair for texts in runs} | {len(references.get(code, ()))}
        for code, pair in systems.items()
    }
    is_paired = len(seeds_of) == 1 and len(set(*seeds_of)) == 1 and all(len(n) == 1 for n in lengths.values())
    if not is_paired or systems.keys() != references.keys():
        raise EvaluationError(
            "The runs do not pair up.", got=f"seeds {sorted(seeds_of)}, sentences {lengths}",
            expected="as many seeds in both systems and every language, and as many sentences in every run",
        )  # fmt: skip
    counts = [
        np.array([[_counts(texts, references[code], code) for texts in runs] for runs in pair])
        for code, pair in systems.items()
    ]  # of each language (2, seeds, sentences, 10)

    def difference(seeds: np.ndarray, sentences: Mapping[int, np.ndarray]) -> float:
        sums = [each[:, :, sentences[each.shape[2]]].sum(2) for each in counts]
        scores = np.array([[[_bleu(run) for run in side] for side in code] for code in sums])
        return float(np.subtract(*np.moveaxis(scores, 1, 0)[::-1])[:, seeds].mean())

    return Paired(difference, counts[0].shape[1], sorted({each.shape[2] for each in counts}))


def paired_losses(differences: Sequence[np.ndarray]) -> Paired:
    """Pair the losses of two systems for ``bootstrap_over_seeds``.

    Args:
        differences: (seeds, sentences) of each language: loss of the system minus that of the base.
    """

    def difference(seeds: np.ndarray, sentences: Mapping[int, np.ndarray]) -> float:
        return float(np.mean([each[seeds][:, sentences[each.shape[1]]].mean() for each in differences]))

    return Paired(difference, len(differences[0]), sorted({each.shape[1] for each in differences}))


def _counts(hypotheses: Sequence[str], references: Sequence[str], target: str) -> list[list[int]]:
    """Return per segment BLEU's lengths (system, reference), its four matches and its four totals."""
    metric = bleu_metric(target)
    metric.effective_order = True  # else sacreBLEU warns at every sentence; the counts are the same
    rows = [metric.sentence_score(h, [r]) for h, r in zip(hypotheses, references, strict=True)]
    return [[row.sys_len, row.ref_len, *row.counts, *row.totals] for row in rows]


def _bleu(counts: np.ndarray) -> float:
    """Return the corpus BLEU of summed counts."""
    lengths, matches, totals = counts[:2], counts[2:6], counts[6:]
    return sacrebleu.BLEU.compute_bleu(
        matches.tolist(), totals.tolist(), int(lengths[0]), int(lengths[1]), smooth_method="exp"
    ).score


def compare(base: str | Path, system: str | Path) -> dict[str, Comparison]:
    """Compare the hypotheses of two evaluations on the same manifests by paired bootstrap.

    Args:
        base, system: Output folders of ``aista evaluate``.

    Returns:
        One comparison per score name (``bleu_zh``, ``mt_bleu_ja``, ...), all test sets together.

    Raises:
        EvaluationError: A folder holds no answers, or not both to the same questions: rows, sources,
            references, or the manifests themselves differ.
        ManifestError: The manifest of an evaluation with a ``limit`` is gone.
    """
    one, other = _hypotheses_of(Path(base)), _hypotheses_of(Path(system))
    if one.keys() != other.keys():
        raise EvaluationError(
            "The two evaluations did not answer the same questions.",
            got=f"{len(one.keys() ^ other.keys())} rows stand in one of them only",
            advice="Evaluate both models on the same manifests.",
        )
    _check_same_rows(one, other)
    _check_same_manifests(Path(base), Path(system))
    groups: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for key, row in one.items():
        if row.task in ("st", "mt"):
            groups[row.task, row.language].append(key)
    comparisons = {}
    for (task, code), keys in sorted(groups.items()):
        name = f"{'mt_' if task == 'mt' else ''}bleu_{code}"
        comparisons[name] = paired_bootstrap(
            [one[key].hypothesis for key in keys],
            [other[key].hypothesis for key in keys],
            [one[key].reference for key in keys],
            code,
        )
    return comparisons


def _check_same_rows(
    one: dict[tuple[str, str], Hypothesis], other: dict[tuple[str, str], Hypothesis]
) -> None:
    """Refuse rows that have one id and another content."""
    for what in ("reference", "source", "task", "language"):
        odd = [key for key, row in one.items() if getattr(row, what) != getattr(other[key], what)]
        if odd:
            values = " and ".join(repr(getattr(rows[odd[0]], what)) for rows in (one, other))
            raise EvaluationError(
                f"The two evaluations do not have the same {what}s: their scores cannot be compared.",
                got=f"{len(odd)} rows differ, e.g. {odd[0][1]}: {values}",
                advice="Evaluate both models on the same manifests.",
            )


def _check_same_manifests(base: Path, system: Path) -> None:
    """Refuse test sets that have one name and another content (the sound, say), as far as they are known."""
    paths = [folder / RESULTS for folder in (base, system)]
    if not all(path.exists() for path in paths):
        return
    one, other = (json.loads(path.read_text(encoding="utf-8")).get("data_sha256", {}) for path in paths)
    if odd := [name for name in one.keys() & other.keys() if one[name] != other[name]]:
        raise EvaluationError(
            "The two evaluations were made on different versions of a manifest.",
            got=", ".join(odd),
            advice="Evaluate both models on the same manifests.",
        )


def _hypotheses_of(folder: Path) -> dict[tuple[str, str], Hypothesis]:
    """Return the answers of an evaluation, less those that a larger ``limit`` before this one left there."""
    files = sorted(folder.glob("*.speech.jsonl")) + sorted(folder.glob("*.text.jsonl"))
    found = {(file.name, row.id): row for file in files for row in read_hypotheses(file)}
    if not found:
        raise EvaluationError(
            "An evaluation to compare holds no hypotheses.",
            got=str(folder),
            expected="the output folder of `aista evaluate`",
        )
    results = folder / RESULTS
    settings = json.loads(results.read_text(encoding="utf-8"))["settings"] if results.exists() else {}
    limit = settings.get("limit")
    if limit is None or max(Counter(name for name, _ in found).values()) <= limit:
        return found
    taken = {
        (f"{Path(path).stem}.{kind}.jsonl", row.id)
        for path in settings["data"]
        for row in islice(Manifest(path), limit)
        for kind in ("speech", "text")
    }
    kept = {key: row for key, row in found.items() if key in taken}
    if len(kept) < sum(min(count, limit) for count in Counter(name for name, _ in found).values()):
        raise EvaluationError(
            "An evaluation holds more answers than its limit, and its manifests have changed since.",
            got=f"{len(kept)} of the first {limit} rows of each are among its answers",
            advice=f"Evaluate again into another folder than {folder}.",
        )
    return kept
