"""Evaluation: a detector's boxes on a dataset, and their average precision."""
