"""Talks of any length through the shipped model: memory stays flat, words are where they were said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aista.audio import speech

pytest.importorskip("espeakng_loader", reason="needs pip install '.[demo]'")
pytestmark = pytest.mark.skipif(not speech.is_installed(), reason="needs pip install '.[vad]'")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "talks.py"


def measured(minutes: float) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "--alone", "--minutes", str(minutes)]
    return json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )


@pytest.mark.slow
def test_a_short_talk():
    found = measured(0.4)
    assert found["spoken_segments"] == pytest.approx(found["sentences"], abs=2)
    assert found["word_start_error"]["mean"] < 0.22


@pytest.mark.stress
def test_memory_is_flat_over_the_length_of_a_talk():
    """The samples themselves are held: what else is, does not grow with them."""
    short, long = measured(10), measured(60)
    print(json.dumps([short, long], indent=1))
    grown = long["peak_mb"] - short["peak_mb"] - 2 * (long["samples_mb"] - short["samples_mb"])
    assert grown < 200
    assert long["real_time_factor_cpu"] < 0.5 and long["word_start_error"]["mean"] < 0.22
