"""``python -m dumpvault``: what a crash kernel runs when no script directory is on its path."""

from dumpvault.cli import main

main()
