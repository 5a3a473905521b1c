"""The thread that runs an engine's steps."""

from __future__ import annotations

import gc
import logging
import sys
import threading

from kronq.engine.engine import Engine
from kronq.errors import KronqError

_IDLE_SECONDS = 0.5
_TURN_SECONDS = 0.0002
"""For how long another thread may keep Python to itself while a step waits for it.

By default that is 5 ms, and a step, which lets go of Python at every run and every large array,
waited for up to 13 of 30 ms while an adapter was added.
"""


def keep_steps_even() -> None:
    """Keeps other threads, such as one that adds adapters, from holding up the engine's steps.

    Threads take turns more often, and all that is loaded by now is taken from what the collector of
    garbage goes through: adding makes it go through everything now and then, for 50 ms of Python's
    own lock. It changes the whole process, so it is for a server, when all is loaded.
    """
    sys.setswitchinterval(_TURN_SECONDS)
    gc.collect()
    gc.freeze()


class Stepping(threading.Thread):
    """Runs an engine's steps while there is something to do, until it is stopped.

    Args:
        engine: The engine.

    Attributes:
        failed: Whether a step ended with an error that is of no row; no text is written any more.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(name="kronq-engine", daemon=True)
        self._engine = engine
        self._stopped = threading.Event()
        self.failed = False

    def run(self) -> None:
        try:
            while not self._stopped.is_set():
                if self._engine.wait(_IDLE_SECONDS):
                    self._engine.step()
        except BaseException:
            self.failed = True
            logging.getLogger("kronq.serve").exception("the engine has failed")
        finally:
            self._engine.end_all(KronqError("the engine has stopped"))

    def stop(self) -> None:
        """Ends the thread after the step that it is in; texts that are not done get an error."""
        self._stopped.set()
        self.join()
