"""The speech LLM, transformers-native. Importing this package teaches transformers' Auto classes about it."""

from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor

from aista.model.beats import BeatsForAudioTagging, BeatsModel
from aista.model.configuration import AistaConfig, BeatsConfig
from aista.model.processing import AistaProcessor, SpeechInputs
from aista.model.speech_lm import AistaForConditionalGeneration

AutoConfig.register(BeatsConfig.model_type, BeatsConfig, exist_ok=True)
AutoModel.register(BeatsConfig, BeatsModel, exist_ok=True)
AutoConfig.register(AistaConfig.model_type, AistaConfig, exist_ok=True)
AutoModelForMultimodalLM.register(AistaConfig, AistaForConditionalGeneration, exist_ok=True)
AutoProcessor.register(AistaConfig, AistaProcessor, exist_ok=True)

__all__ = [
    "AistaConfig",
    "AistaForConditionalGeneration",
    "AistaProcessor",
    "BeatsConfig",
    "BeatsForAudioTagging",
    "BeatsModel",
    "SpeechInputs",
]
