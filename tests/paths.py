"""Where the checkout's own files are."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "arc-easy-lokr-r8"
