"""Size and error of quantized adapters: exact weight error, its lower bound, tables and plots."""

from kronq.report.bound import GaussianBound, gaussian_bound
from kronq.report.measurement import measure
from kronq.report.models import LayerStatistics, Statistics, TotalStatistics
from kronq.report.report import Report
from kronq.report.statistics import snr_db

__all__ = [
    "GaussianBound",
    "LayerStatistics",
    "Report",
    "Statistics",
    "TotalStatistics",
    "gaussian_bound",
    "measure",
    "snr_db",
]
