"""``python -m kronq``."""

from kronq.cli import main

main()
