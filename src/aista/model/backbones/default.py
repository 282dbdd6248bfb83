"""Any causal LM that names its parts as Llama does: Mistral, Gemma, OLMo, Phi-3 and many more."""

from aista.model.backbones import Family

FAMILY = Family()
