"""Plans of runs before they start: parameters, memory and operations, without weights and without a network."""
