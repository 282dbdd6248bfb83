"""``python -m aista.demo.standins evaluate FOLDER CORPUS [NAME ...]``: score stand-ins into their cards."""

from __future__ import annotations

import sys
from pathlib import Path

from aista.demo import standins


def main(arguments: list[str]) -> None:
    """Score every finished stand-in of a folder, or those that are named."""
    if len(arguments) < 3 or arguments[0] != "evaluate":
        raise SystemExit(__doc__)
    folder, corpora = Path(arguments[1]), Path(arguments[2])
    for name in arguments[3:] or standins.NAMES:
        if (folder / name / "card.json").exists():
            print(name, standins.evaluate(name, folder / name, corpora), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
