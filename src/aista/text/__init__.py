"""Text: languages and scripts, normalisation, prompts, and content that never becomes control tokens."""
