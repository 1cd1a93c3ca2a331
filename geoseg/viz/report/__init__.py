"""The report: one page about a map, to be looked at, printed and handed over."""

from geoseg.viz.report.write import write_report

__all__ = ["write_report"]
