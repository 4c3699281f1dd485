"""Stages: plain functions of their declared configuration and their parents' files."""
