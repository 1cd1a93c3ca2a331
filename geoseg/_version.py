"""The versions, in the one place that packaging, provenance and stores read them."""

__version__ = "0.1.0"

ANSWERS = 1
"""Raised whenever any label could change. A store that was begun with another number is
not resumed, or half of it would be another map; `tests/inference/test_answers.py` says
when this is due."""
