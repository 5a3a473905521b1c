"""What was lost: exact weight error, its lower bound, reports, tables and plots."""

from kronq.report.bound import GaussianBound, gaussian_bound
from kronq.report.measurement import Figures, LayerReport, Report, Total, measure, snr_db

__all__ = [
    "Figures",
    "GaussianBound",
    "LayerReport",
    "Report",
    "Total",
    "gaussian_bound",
    "measure",
    "snr_db",
]
