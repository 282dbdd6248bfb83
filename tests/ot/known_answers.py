"""Clouds drawn together with their exact transport value (squared Euclidean cost, uniform masses)."""

from __future__ import annotations

import numpy as np


def diracs(rng, n, m, d):
    """One point against many: everything must move there."""
    x, y = rng.normal(size=(1, d)), rng.normal(size=(m, d))
    return x, y, np.square(x - y).sum(1).mean()


def permuted(rng, n, m, d):
    """The same cloud in another order."""
    x = rng.normal(size=(n, d))
    return x, x[rng.permutation(n)], 0.0


def translated(rng, n, m, d):
    """A shift is optimal, whatever its length."""
    x, shift = rng.normal(size=(n, d)), rng.normal(size=d) * 3
    return x, (x + shift)[rng.permutation(n)], np.square(shift).sum()


def line(rng, n, m, d):
    """On a line the sorted order is optimal."""
    direction = rng.normal(size=d)
    x, y = rng.normal(size=n), rng.normal(size=n) * 2 + 1
    value = np.square(np.sort(x) - np.sort(y)).mean() * np.square(direction).sum()
    return x[:, None] * direction, y[:, None] * direction, value


def stretched(rng, n, m, d):
    """The gradient of a convex function is optimal (Brenier): y = A x + b with A symmetric positive."""
    root = rng.normal(size=(d, d)) / np.sqrt(d)
    x = rng.normal(size=(n, d))
    y = x @ (root @ root.T) + rng.normal(size=d)
    return x, y[rng.permutation(n)], np.square(x - y).sum(1).mean()


def repeated(rng, n, m, d):
    """Every point k times on one side: the value of the cloud itself."""
    x, y, value = stretched(rng, n, m, d)
    return x, np.repeat(y, 3, axis=0), value


ALL = (diracs, permuted, translated, line, stretched, repeated)


def costs(x, y):
    """(n, m) squared distances, float64."""
    return np.square(x[:, None] - y[None]).sum(-1)
