"""``python -m kronq``."""

from kronq.cli import main

if __name__ == "__main__":  # a process of --workers imports this module too
    main()
