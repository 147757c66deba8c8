"""Sweeps on SLURM: submit, watch, collect, cancel."""
