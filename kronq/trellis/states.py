"""The trellis that says which levels a code may mean: what decoder and encoder share.

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

MEMORY = 5
STATES = 2**MEMORY
# Parity-check polynomials for amplitude modulation: Ungerboeck, IEEE Trans. Inf. Theory 28, 1982.
_H0, _H1 = 0o45, 0o10


def _next_states() -> NDArray[np.int8]:
    """[STATES, 2]: the state after an even code, and after an odd one.

    The systematic feedback encoder in observer form: bit i of the next state is bit i + 1 of this
    one, plus tap i + 1 of each polynomial times its bit, modulo 2.
    """
    table = np.zeros((STATES, 2), dtype=np.int8)
    for state in range(STATES):
        for parity in (0, 1):
            table[state, parity] = (state >> 1) ^ ((_H0 >> 1) * (state & 1)) ^ ((_H1 >> 1) * parity)
    return table


NEXT = _next_states()


def levels(codes: NDArray[Any], odd: NDArray[Any]) -> NDArray[Any]:
    """Code k means level 2k in an even state, and 2k - sign(k) in an odd one."""
    level: NDArray[Any] = 2 * codes - np.sign(codes) * odd
    return level


def codes_of(level: NDArray[Any]) -> NDArray[Any]:
    """The code of each level; which of the two kinds of state it came from shows in its parity."""
    code: NDArray[Any] = np.sign(level) * ((np.abs(level) + 1) // 2)
    return code
