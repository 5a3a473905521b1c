"""What was lost: exact weight error, reports, tables and plots."""

from kronq.measure.report import Figures, LayerReport, Report, measure, snr_db, stamp, worst_first

__all__ = ["Figures", "LayerReport", "Report", "measure", "snr_db", "stamp", "worst_first"]
