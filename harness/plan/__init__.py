"""What a run would train, before it runs: counted on the meta device, without weights and without a network."""
