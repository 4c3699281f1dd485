"""Executes a plan's stages and publishes their results."""
