"""SALMONN from its own checkpoint, through our import, asked as its test prompts ask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aista.baselines.base import identity, worded
from aista.baselines.speech_llm import InTheirWords
from aista.checkpoints import salmonn
from aista.inference.translating import GenerationSettings, Request
from aista.model import AistaProcessor, loading
from aista.model.speech_lm import AistaForConditionalGeneration
from aista.speech_llm import SpeechLM

# SALMONN's test prompts (its En-Ja is zero-shot: no training prompt asks for Japanese).
PROMPTS = {
    "st": "Listen to the speech and translate it into {language}.",
    "asr": "Recognize the speech and give me the transcription.",
    "aac": "Please describe the audio.",
}


@dataclass(frozen=True)
class Options:
    """What a SALMONN is made of.

    Attributes:
        checkpoint: ``salmonn_v1.pth`` (13B) or ``salmonn_7b_v0.pth``; or the folder that ``aista import
            salmonn`` made of it, which knows its frozen models.
        whisper: Whisper-large-v2: folder or hub id.
        beats: The BEATs ``.pt`` file; None for a SALMONN that was trained without.
        llm: Vicuna: v1.1 for the 13B model, v1.5 for the 7B model.
        prompt: Wording for ``st`` in place of SALMONN's.
        parity: SALMONN's numbers to the last habit (see ``aista.checkpoints.salmonn.load``).
        quantization: ``4bit`` or ``8bit``.
        dtype: Of the language model.
        qformer_heads, any_llm: As for ``aista.checkpoints.salmonn.load``.
    """

    checkpoint: str
    whisper: str = "openai/whisper-large-v2"
    beats: str | None = None
    llm: str = "lmsys/vicuna-13b-v1.1"
    prompt: str | None = None
    parity: bool = False
    quantization: str | None = None
    dtype: str | None = None
    qformer_heads: int | None = None
    any_llm: bool = False


class System(InTheirWords):
    """SALMONN: 88 speech tokens whatever the length, beam search with 4 beams, at most 200 new tokens.

    Args:
        options: Its parts.
        generation, device: As for ``Baseline``.

    Raises:
        CheckpointError: The checkpoint is damaged, or the frozen models are not those it belongs to.
    """

    options = Options
    prompts = PROMPTS
    own_generation = GenerationSettings(num_beams=4, max_new_tokens=200, batch_size=8)

    def __init__(
        self, options: Options, *, generation: dict[str, Any] | None = None, device: str | None = None
    ) -> None:
        super().__init__(generation=generation, device=device)
        checkpoint, prompt = options.checkpoint, options.prompt
        parts: dict[str, str | None] = {"checkpoint": checkpoint}
        model: Any
        if Path(checkpoint).is_dir():
            model = AistaForConditionalGeneration.from_pretrained(
                checkpoint, quantization=options.quantization, dtype=options.dtype
            )
        else:
            frozen = salmonn.FrozenModels(options.whisper, options.beats, options.llm)
            model = salmonn.load(
                checkpoint,
                frozen,
                qformer_heads=options.qformer_heads,
                parity=options.parity,
                any_llm=options.any_llm,
                options=loading.Options(options.dtype, options.quantization),
            )
            parts |= {"whisper": frozen.whisper, "llm": frozen.llm, "beats": frozen.beats}
        self.model = (model if options.quantization else model.to(self.device)).eval()
        self.processor = AistaProcessor.from_config(self.model.config)
        self.speech_llm = SpeechLM(self.model, self.processor)
        self.prompt = prompt
        self.name = f"SALMONN {Path(checkpoint).stem}"
        self.card = {
            "system": "salmonn",
            **{name: identity(source) for name, source in parts.items() if source is not None},
            "prompts": PROMPTS if prompt is None else PROMPTS | {"st": prompt},
            "parity": options.parity,
            "quantization": options.quantization,
        }
        worded(PROMPTS, Request("st", "en", "zh"), prompt)
