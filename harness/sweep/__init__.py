"""Sweeps of experiments: cells, stages, launchers, tracking."""
