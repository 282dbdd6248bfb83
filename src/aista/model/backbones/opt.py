"""OPT: its decoder is one level deeper than Llama's."""

from aista.model.backbones import Family

FAMILY = Family(decoder="model.decoder")
