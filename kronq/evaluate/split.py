"""Examples to choose by, and others to check the choice on."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kronq.errors import KronqError
from kronq.io.examples import Example

LEAST = 8


def split(
    examples: Sequence[Example], held_out: float = 0.5, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Divides them at random, the same way every time.

    Equal examples stay together: one that was searched by would tell nothing new when held out.

    Args:
        examples: In any order; the division depends on what they are, not on where they stand.
        held_out: Share that is held out, about.
        seed: Another gives another division.

    Returns:
        (to search by, held out).

    Raises:
        KronqError: A part would have fewer than 8 examples.
    """
    if not 0 < held_out < 1:
        raise KronqError("not a share to hold out", found=held_out, expected="between 0 and 1")
    different = sorted(set(examples), key=repr)
    random.Random(seed).shuffle(different)  # noqa: S311
    count = round(held_out * len(different))
    kept = set(different[:count])
    parts = [e for e in examples if e not in kept], [e for e in examples if e in kept]
    if min(map(len, parts)) < LEAST:
        raise KronqError(
            "too few examples",
            found=f"{len(parts[0])} to search by and {len(parts[1])} held out",
            expected=f"at least {LEAST} of each, all different",
        )
    return parts
