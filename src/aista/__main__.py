"""``python -m aista``."""

from aista.cli.main import main

main()
