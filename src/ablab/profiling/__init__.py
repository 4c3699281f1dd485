"""Profiling: what a network costs."""
