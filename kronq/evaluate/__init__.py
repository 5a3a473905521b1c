"""Evaluation on a user's own task: scoring adapters, and the smallest file that still does it."""

from kronq.evaluate.cache import Scorer, TaskCache
from kronq.evaluate.candidates import FixedCandidate, SizedCandidate
from kronq.evaluate.score import ExampleScore, nll_per_token
from kronq.evaluate.search import SearchOptions, SmallestAdapter, search_candidates
from kronq.evaluate.smallest import smallest
from kronq.evaluate.task_model import TaskModel
from kronq.evaluate.task_report import TaskReport, score_all
from kronq.report.task import SearchResult

__all__ = [
    "ExampleScore",
    "FixedCandidate",
    "Scorer",
    "SearchOptions",
    "SearchResult",
    "SizedCandidate",
    "SmallestAdapter",
    "TaskCache",
    "TaskModel",
    "TaskReport",
    "nll_per_token",
    "score_all",
    "search_candidates",
    "smallest",
]
