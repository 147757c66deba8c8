"""Groups -> claims: the guard, pairwise tests, frontiers, recommendations."""
