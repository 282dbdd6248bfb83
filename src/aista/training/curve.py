"""A curve drawn with braille dots, two by four to a character."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

# Bits of the dots of U+2800: column, then row from the top.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def curve(points: Sequence[tuple[float, float]], width: int, height: int) -> list[str]:
    """Draw points, joined from left to right.

    Args:
        points: (x, y), at least one; of those that share a column of dots the mean is drawn.
        width, height: In characters.

    Returns:
        ``height`` lines of ``width`` characters.
    """
    columns, rows = 2 * width, 4 * height
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, low = min(xs), min(ys)
    across, up = (max(xs) - left) or 1.0, (max(ys) - low) or 1.0
    bins: dict[int, list[float]] = defaultdict(list)
    for x, y in points:
        bins[round((x - left) / across * (columns - 1))].append(y)
    cells = [[0] * width for _ in range(height)]
    before: tuple[int, int] | None = None
    for column in sorted(bins):
        level = (sum(bins[column]) / len(bins[column]) - low) / up
        row = round((1 - level) * (rows - 1))
        for x, y in _between(before or (column, row), (column, row)):
            cells[y // 4][x // 2] |= _DOTS[x % 2][y % 4]
        before = (column, row)
    return ["".join(chr(0x2800 + cell) for cell in line) for line in cells]


def _between(start: tuple[int, int], stop: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the dots of a straight line."""
    steps = max(abs(stop[0] - start[0]), abs(stop[1] - start[1]), 1)
    return [
        (
            round(start[0] + (stop[0] - start[0]) * k / steps),
            round(start[1] + (stop[1] - start[1]) * k / steps),
        )
        for k in range(steps + 1)
    ]
