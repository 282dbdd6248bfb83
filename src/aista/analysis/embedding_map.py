"""Where speech and text lie inside a model (the paper's Figure 5), and how far apart, in numbers.

A clip's speech tokens are averaged, and so are the tokens of its transcript. All averages of all models go
through one t-SNE, so that panels share their axes; a bivariate kernel density estimate (Parzen, 1962) shows
where each kind is dense. A map shows neighbours, not distances: those are measured in the original space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import gaussian_kde
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aista.data.dataset import SpeechDataset
from aista.errors import EvaluationError
from aista.speech_llm import SpeechLM
from aista.speech_llm.pairs import paired_states

FEWEST = 4
SHARES = (0.25, 0.5, 0.75)
GRID = 64  # points in each direction


@dataclass(frozen=True)
class MeanStates:
    """Averages over the tokens of Q pairs.

    Attributes:
        speech: float32 (Q, d), the mean of each clip's speech tokens.
        text: float32 (Q, d), the mean of its transcript's tokens.
    """

    speech: np.ndarray
    text: np.ndarray


def mean_states(model: Any, processor: Any, dataset: SpeechDataset, batch_size: int = 16) -> MeanStates:
    """Return the mean speech and text representation of every pair at the embedding layer, as in the paper.

    Args:
        model, processor: A speech model and its processor.
        dataset: Q rows with sound and transcript.
        batch_size: Pairs at a time.
    """
    spoken: list[np.ndarray] = []
    written: list[np.ndarray] = []
    for speech, text in paired_states(SpeechLM(model, processor), dataset, (0,), batch_size):
        spoken += [states.mean(dim=0).numpy() for states in speech[0]]
        written += [states.mean(dim=0).numpy() for states in text[0]]
    return MeanStates(np.stack(spoken), np.stack(written))


@dataclass(frozen=True)
class Closeness:
    """How near speech lies to text, in the original space.

    Attributes:
        centroid_distance: Euclidean distance between the mean of all speech and the mean of all text.
        paired_distance: Mean Euclidean distance between a clip and its own transcript.
        unpaired_distance: Mean Euclidean distance between a clip and the transcripts of the others.
        text_spread: Root mean square distance of the texts from their mean: a unit the space itself has.
        speech_spread: The same for speech.
        separability: Accuracy with which a linear classifier tells speech from text on pairs it has not seen,
            between 0.5 (they are mixed) and 1 (a plane parts them).
        num_pairs: Q.
    """

    centroid_distance: float
    paired_distance: float
    unpaired_distance: float
    text_spread: float
    speech_spread: float
    separability: float
    num_pairs: int

    @property
    def relative_centroid_distance(self) -> float:
        """The distance between the means in units of the texts' spread."""
        return self.centroid_distance / self.text_spread if self.text_spread else math.inf

    @property
    def relative_paired_distance(self) -> float:
        """The mean distance within a pair in units of the texts' spread."""
        return self.paired_distance / self.text_spread if self.text_spread else math.inf

    @property
    def pairing(self) -> float:
        """Distance to the own transcript over distance to others: 1 where a clip is no nearer to its own."""
        return self.paired_distance / self.unpaired_distance if self.unpaired_distance else math.inf


def closeness(states: MeanStates) -> Closeness:
    """Measure how near speech lies to text.

    Raises:
        EvaluationError: There are fewer than 4 pairs.
    """
    speech, text = states.speech.astype(np.float64), states.text.astype(np.float64)
    _enough(len(speech))
    distances = cdist(speech, text)
    # Both halves of a pair are in the same fold, or the sentence would leak.
    labels, pairs = np.repeat([0, 1], len(speech)), np.tile(np.arange(len(speech)), 2)
    judge = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    parts = GroupKFold(min(5, len(speech) // 2))
    accuracy = cross_val_score(judge, np.vstack([speech, text]), labels, groups=pairs, cv=parts)
    return Closeness(
        centroid_distance=float(np.linalg.norm(speech.mean(0) - text.mean(0))),
        paired_distance=float(np.trace(distances) / len(speech)),
        unpaired_distance=float((distances.sum() - np.trace(distances)) / (len(speech) * (len(speech) - 1))),
        text_spread=_spread(text),
        speech_spread=_spread(speech),
        separability=float(accuracy.mean()),
        num_pairs=len(speech),
    )


def _spread(points: np.ndarray) -> float:
    return float(np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean()))


def plane(groups: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """Lay several clouds into one plane by t-SNE; equal seeds give equal planes on one machine.

    Args:
        groups: Name -> float (Q, d). Clouds that are equal (the embedded texts of models that share their
            embedding) are laid once and share their places.
        seed: Of t-SNE; it starts from the principal components.

    Returns:
        Name -> float64 (Q, 2).

    Raises:
        EvaluationError: A cloud has fewer than 4 points.
    """
    for cloud in groups.values():
        _enough(len(cloud))
    first = {
        name: next(other for other in groups if np.array_equal(groups[other], cloud))
        for name, cloud in groups.items()
    }
    kept = [name for name in groups if first[name] == name]
    points = np.vstack([groups[name] for name in kept]).astype(np.float64)
    tsne = TSNE(perplexity=min(30.0, (len(points) - 1) / 3), init="pca", random_state=seed)
    ends = np.cumsum([len(groups[name]) for name in kept])[:-1]
    laid = dict(zip(kept, np.split(tsne.fit_transform(points).astype(np.float64), ends), strict=True))
    return {name: laid[first[name]] for name in groups}


@dataclass(frozen=True)
class Density:
    """A kernel density estimate on a grid.

    Attributes:
        x: (n,) columns of the grid.
        y: (n,) rows of the grid.
        values: (n, n), density at [row, column].
        levels: The densities whose regions hold 25, 50 and 75 % of the mass, the smallest region first.
    """

    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    levels: tuple[float, ...]

    def contours(self) -> list[list[np.ndarray]]:
        """Return the outlines at each level: lists of (k, 2) points."""
        from matplotlib.figure import Figure

        rising = sorted(set(self.levels))
        drawn = Figure().add_subplot().contour(self.x, self.y, self.values, levels=rising)
        found = dict(zip(rising, drawn.allsegs, strict=True))
        return [[np.asarray(piece) for piece in found[level]] for level in self.levels]


def density(points: np.ndarray, bounds: Sequence[float]) -> Density:
    """Estimate the density of a cloud in the plane (Gaussian kernels, Scott's bandwidth).

    Args:
        points: (Q, 2).
        bounds: Left, right, lower and upper end of the grid.

    Raises:
        EvaluationError: The points are too few or lie on one line.
    """
    _enough(len(points))
    if np.linalg.matrix_rank(points - points.mean(0), tol=1e-9 * (np.ptp(points) or 1)) < 2:
        raise EvaluationError("Points on one line have no density in the plane.", got=len(points))
    kernel = gaussian_kde(points.T)
    left, right, lower, upper = bounds
    x, y = np.linspace(left, right, GRID), np.linspace(lower, upper, GRID)
    columns, rows = np.meshgrid(x, y)
    values = kernel(np.vstack([columns.ravel(), rows.ravel()])).reshape(GRID, GRID)
    ordered = np.sort(values, axis=None)[::-1]
    mass = np.cumsum(ordered) / ordered.sum()
    levels = tuple(float(ordered[np.searchsorted(mass, share)]) for share in SHARES)
    return Density(x, y, values, levels)


def _enough(count: int) -> None:
    if count < FEWEST:
        raise EvaluationError(
            "A map of speech and text needs more pairs.", got=count, expected=f">= {FEWEST}"
        )
