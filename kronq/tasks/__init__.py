"""The user's own task: scoring adapters on it, and the smallest file that still does it."""

from kronq.tasks.cache import Cache, Scorer
from kronq.tasks.model import TaskModel
from kronq.tasks.report import TaskReport, score_all
from kronq.tasks.result import TaskResult
from kronq.tasks.score import Score, nll_per_token
from kronq.tasks.search import Found, smallest
from kronq.tasks.trials import Dial, Fixed

__all__ = [
    "Cache",
    "Dial",
    "Fixed",
    "Found",
    "Score",
    "Scorer",
    "TaskModel",
    "TaskReport",
    "TaskResult",
    "nll_per_token",
    "score_all",
    "smallest",
]
