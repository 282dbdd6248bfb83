"""Llama, and Vicuna, which SALMONN and the paper's first system are built on."""

from aista.model.backbones import Family

FAMILY = Family(template="vicuna")
