"""Text: languages and prompts, normalisation, and content that never becomes control tokens."""
