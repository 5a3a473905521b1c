"""Division of examples into those that choose a candidate and those that check the choice."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kronq.errors import ArgumentError, KronqError
from kronq.io.examples import Example

MIN_EXAMPLES = 8
"""Examples that each part must have at least."""


def split_examples(
    examples: Sequence[Example], held_out: float = 0.5, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Divides examples at random into a search part and a held-out part.

    Equal examples stay in one part, because a held-out copy of a searched example checks nothing.
    The division depends on the examples and the seed, not on their order.

    Args:
        examples: The examples, in any order.
        held_out: Approximate share of the held-out part, between 0 and 1.
        seed: Seed of the shuffle.

    Returns:
        (search part, held-out part), each in the order given.

    Raises:
        KronqError: The share is out of range, or a part has fewer than ``MIN_EXAMPLES`` examples.
    """
    if not 0 < held_out < 1:
        raise KronqError("bad held-out share", found=held_out, expected="between 0 and 1")
    distinct = sorted(set(examples), key=repr)
    random.Random(seed).shuffle(distinct)  # noqa: S311
    checked = set(distinct[: round(held_out * len(distinct))])
    parts = [e for e in examples if e not in checked], [e for e in examples if e in checked]
    if min(map(len, parts)) < MIN_EXAMPLES:
        raise ArgumentError(
            "too few examples",
            found=f"{len(parts[0])} to search by and {len(parts[1])} held out",
            expected=f"at least {MIN_EXAMPLES} of each, all different",
        )
    return parts
