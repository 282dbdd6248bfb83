"""What the paper reports, table by table, as printed. ``"X"``: the run that failed.

Its baselines (the head of Table 2) stand in ``aista.baselines.base``.
"""

from __future__ import annotations

from dataclasses import dataclass

DIRECTIONS = ("zh", "ja")
DIVERGED = "X"


@dataclass(frozen=True)
class Corpus:
    """A row of Table 1.

    Attributes:
        task: ASR, AAC or ST.
        name: As printed.
        hours, samples: As printed; None for a dash.
        manifests: Beginnings of our manifests' names at the paper's scale.
    """

    task: str
    name: str
    hours: float | None
    samples: int
    manifests: tuple[str, ...]


TABLE1 = (
    Corpus("ASR", "LibriSpeech", 960, 280_000, ("librispeech",)),
    Corpus("ASR", "GigaSpeech M-set", 1000, 680_000, ("gigaspeech",)),
    Corpus("AAC", "WavCaps", 2800, 370_000, ("wavcaps",)),
    Corpus("AAC", "AudioCaps", None, 45_000, ("audiocaps",)),
    Corpus("AAC", "Clotho", None, 4_000, ("clotho",)),
    Corpus("ST", "CoVoST2 En2Zh", 364, 289_000, ("covost2-en-zh",)),
    Corpus("ST", "CoVoST2 En2Ja", 364, 289_000, ("covost2-en-ja",)),
)

# Table 2 (6.1), CoVoST2 test, sacreBLEU: (backbone, system) -> direction -> BLEU.
TABLE2: dict[tuple[str, str], dict[str, float]] = {
    ("Vicuna-13B", "base"): {"zh": 36.5, "ja": 29.8},
    ("Vicuna-13B", "ai_sta"): {"zh": 37.6, "ja": 30.2},
    ("Qwen2-7B", "base"): {"zh": 45.3, "ja": 31.0},
    ("Qwen2-7B", "ai_sta"): {"zh": 46.0, "ja": 31.4},
}

# Table 3 (6.2), Qwen2-7B, En-Zh; layers 0-1 were selected.
TABLE3: dict[str, float | str] = {
    "base": 45.3, "layer_0": 45.7, "layers_0_5": 45.5, "ai_sta": 46.0,
    "layer_1": DIVERGED, "layer_1_raw": DIVERGED,
}  # fmt: skip

# Table 4 (6.3), Qwen2-7B, En-Zh.
TABLE4: dict[str, float] = {"base": 45.3, "ctc": 44.6, "contrastive": 45.1, "ai_sta": 46.0}

# Table 5 (6.6), En-Zh: (backbone, system) -> (speech translation, zero-shot text translation).
TABLE5: dict[tuple[str, str], tuple[float, float]] = {
    ("Vicuna-13B", "base"): (36.5, 34.0),
    ("Vicuna-13B", "ai_sta"): (37.6, 39.4),
    ("Qwen2-7B", "base"): (45.3, 51.2),
    ("Qwen2-7B", "ai_sta"): (46.0, 51.5),
}
