"""Tools for the weights of a finished run: merge, combine, inspect, describe."""
