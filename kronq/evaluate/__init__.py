"""The user's own task: scoring adapters on it, and the smallest file that still does it."""

from kronq.evaluate.cache import Cache, Scorer
from kronq.evaluate.score import Score, nll_per_token
from kronq.evaluate.search import Found, smallest
from kronq.evaluate.search_result import TaskResult
from kronq.evaluate.task_model import TaskModel
from kronq.evaluate.task_report import TaskReport, score_all
from kronq.evaluate.trials import Dial, Fixed

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
