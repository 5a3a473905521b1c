"""What was lost: exact weight error, reports, tables and plots."""

from kronq.metrics.report import Figures, LayerReport, Report, measure, snr_db, stamp

__all__ = ["Figures", "LayerReport", "Report", "measure", "snr_db", "stamp"]
