"""From sound to text: the translator, recordings of any length, and the formats of their translations."""
