"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run: a commit passes or fails for its own sake. AISTA_EXPLORE=1 draws new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile("explore" if os.environ.get("AISTA_EXPLORE") else "same")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = Path(os.environ.get("AISTA_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of recordings and real audio beside a checkout; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the recordings in {SHARED} (set AISTA_SHARED to where they lie)")
    return SHARED
