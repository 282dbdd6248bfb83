"""Is one system better than another, or only luckier? Paired bootstrap on the same segments (Koehn, 2004)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sacrebleu.significance import PairedTest

from aista.evaluation.metrics import bleu_metric, check_pairs


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same test set.

    Attributes:
        base, system: Their BLEU.
        base_half_width, system_half_width: Half the 95 % interval of each over the resamples.
        p_value: Probability of a difference at least this large if the systems were equally good.
        signature: sacreBLEU's signature with seed and number of resamples.
    """

    base: float
    system: float
    base_half_width: float
    system_half_width: float
    p_value: float
    signature: str

    @property
    def difference(self) -> float:
        """The system's score minus the base's."""
        return self.system - self.base

    def is_significant(self, level: float = 0.05) -> bool:
        """Whether the difference is larger than chance allows at this level."""
        return self.p_value < level

    def __str__(self) -> str:
        verdict = "significant" if self.is_significant() else "within chance"
        return f"{self.difference:+.2f} BLEU, p = {self.p_value:.3f} ({verdict})"


def paired_bootstrap(
    base: Sequence[str],
    system: Sequence[str],
    references: Sequence[str],
    target: str,
    *,
    num_resamples: int = 1000,
) -> Comparison:
    """Compare two systems' BLEU by sacreBLEU's paired bootstrap.

    Args:
        base: The baseline's hypotheses.
        system: The other system's hypotheses for the same segments.
        references: One reference per segment.
        target: ISO code of the target language.
        num_resamples: How many test sets are drawn; the seed is sacreBLEU's (``SACREBLEU_SEED``, 12345).

    Raises:
        EvaluationError: The three lists do not pair up.

    Departs:
        sacreBLEU gives two identical systems the smallest p-value it has; here it is 1.
    """
    check_pairs(base, references)
    check_pairs(system, references)
    test = PairedTest(
        [("base", list(base)), ("system", list(system))],
        {"BLEU": bleu_metric(target)},
        [list(references)],
        test_type="bs",
        n_samples=num_resamples,
    )
    signatures, scores = test()
    one, other = cast(list[Any], scores["BLEU"])
    return Comparison(
        base=one.score,
        system=other.score,
        base_half_width=one.ci,
        system_half_width=other.ci,
        p_value=1.0 if list(base) == list(system) else other.p_value,
        signature=str(signatures["BLEU"]),
    )
