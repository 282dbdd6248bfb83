"""Programs for those who make the package; nothing in it needs them."""
