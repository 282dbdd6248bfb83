"""Utterances: manifests, their checks, their way into batches, and the corpora they come from."""

from aista.data.manifest import Manifest, Utterance, write_manifest

__all__ = ["Manifest", "Utterance", "write_manifest"]
