"""Conversion of one Experiment into one RunRecord: resolve, check, isolate, execute, record."""
