"""``python -m kronq.lm_eval``: the harness's own command line, with ``--model kronq``."""

from __future__ import annotations

import importlib
import sys

from kronq.errors import KronqError
from kronq.io.extras import require


def main() -> None:
    """Runs the harness: exit code 2 and one line for what a user can mend in kronq's part."""
    try:
        require("lm-eval", "lm-evaluation-harness")
        importlib.import_module("kronq.lm_eval.harness_model")  # registers itself
        importlib.import_module("lm_eval.__main__").cli_evaluate()
    except KronqError as error:
        sys.stderr.write(f"kronq: error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
