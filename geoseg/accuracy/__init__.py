"""Accuracy, areas and agreement of objects, each with its source."""
