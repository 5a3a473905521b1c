"""States of the trellis and the levels that a code means in each: shared by encoder and decoder.

Entropy-coded trellis-coded quantization (Marcellin and Fischer, IEEE Trans. Commun. 38, 1990;
Fischer and Wang, IEEE Trans. Inf. Theory 38, 1992): a state allows either the even levels or the
odd ones and zero, and the parity of each code leads to the next state. A code costs as much as
with a step twice as wide, and the encoder's choice of a whole path wins most of the 1.53 dB that
separate scalar rounding from the rate–distortion bound. The union of subsets that holds zero in
both halves, symmetric in sign, is that of dependent quantization in VVC (ITU-T H.266, 8.7.3).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

STATES = 32
# Parity-check polynomials for amplitude modulation: Ungerboeck, IEEE Trans. Inf. Theory 28, 1982.
_H0, _H1 = 0o45, 0o10


def _next_states() -> NDArray[np.int8]:
    """Returns [STATES, 2]: the state after an even code, and after an odd one.

    The systematic feedback encoder in observer form: bit i of the next state is bit i + 1 of this
    one, plus tap i + 1 of each polynomial times its bit, modulo 2.
    """
    table = np.zeros((STATES, 2), dtype=np.int8)
    for state in range(STATES):
        for parity in (0, 1):
            table[state, parity] = (state >> 1) ^ ((_H0 >> 1) * (state & 1)) ^ ((_H1 >> 1) * parity)
    return table


NEXT_STATE = _next_states()
"""[state, parity of the code] → state."""


def levels_from_codes(codes: NDArray[Any], odd: NDArray[Any]) -> NDArray[Any]:
    """Returns the level of each code: 2k in an even state, 2k - sign(k) in an odd one."""
    levels: NDArray[Any] = 2 * codes - np.sign(codes) * odd
    return levels


def codes_from_levels(levels: NDArray[Any]) -> NDArray[Any]:
    """Returns the code of each level, which is the same in both kinds of state."""
    codes: NDArray[Any] = np.sign(levels) * ((np.abs(levels) + 1) // 2)
    return codes
