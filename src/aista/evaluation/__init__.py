"""The judge: scores with their signatures, decoding, translation of any sound, the evaluation of a model."""
