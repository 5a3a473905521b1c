"""C of kronq's: the libraries that its wheel carries or a compiler makes, and its own loops.

What is in C is in Python too, with the same results to the bit; C is only faster.
"""

from kronq.compiled.library import OK as OK
from kronq.compiled.library import OUT_OF_RANGE as OUT_OF_RANGE
from kronq.compiled.library import TOO_SHORT as TOO_SHORT
from kronq.compiled.library import call as call
from kronq.compiled.library import library as library
