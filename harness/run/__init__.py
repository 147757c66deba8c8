"""One Experiment -> one RunRecord: resolve, check, isolate, execute, keep."""
