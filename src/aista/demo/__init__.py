"""The demonstration: a small world of English sentences, its voices, and the models shipped for it."""
