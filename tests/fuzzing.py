"""Examples that hypothesis draws: the same in each run, or many new ones (``make fuzz``)."""

from __future__ import annotations

from hypothesis import settings

TIMES = 20
"""Examples of ``make fuzz`` for each of an ordinary run."""


def register_profiles() -> None:
    """Makes ordinary runs repeatable; ``--hypothesis-profile fuzz`` explores."""
    settings.register_profile("fixed", derandomize=True, deadline=None)
    settings.register_profile(
        "fuzz", derandomize=False, deadline=None, max_examples=100 * TIMES, print_blob=True
    )
    settings.load_profile("fixed")


def max_examples(count: int) -> settings:
    """A decorator: ``count`` examples in an ordinary run, ``TIMES`` as many in a fuzzing one."""
    fuzzing = settings.get_current_profile_name() == "fuzz"
    return settings(max_examples=count * TIMES if fuzzing else count)
