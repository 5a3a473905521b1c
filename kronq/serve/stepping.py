"""The thread that runs an engine's steps."""

from __future__ import annotations

import logging
import threading

from kronq.engine.engine import Engine
from kronq.errors import KronqError

_IDLE_SECONDS = 0.5
TURN_SECONDS = 0.0002
"""For how long another thread may keep Python to itself while a step waits for it.

By default that is 5 ms, and a step, which lets go of Python at every run and every large array,
waited for up to 13 of 30 ms while an adapter was added. In a server of its own, for all threads.
"""


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
