"""Fine-tuning methods: one file each, all of them held to the contract in `base`."""
