"""What can be done with a run's weights afterwards: merge, combine, look into, describe."""
