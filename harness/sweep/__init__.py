"""Many experiments: cells, stages, launchers, tracking."""
