"""The report: one page about a map, to be looked at, printed and handed over."""

from geoseg.viz.report.write import report

__all__ = ["report"]
