"""Records -> rows -> groups, as plain objects."""
