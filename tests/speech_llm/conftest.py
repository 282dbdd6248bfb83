"""The bases of the model's tests, for what goes through the adapter."""

from tests.model.conftest import bases, pair

__all__ = ["bases", "pair"]
