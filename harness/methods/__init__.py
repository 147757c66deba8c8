"""Fine-tuning methods: one file each, all of them held to the contract in `base`."""

# What has been looked into and is not offered: name -> why, for those who ask for it.
NOT_OFFERED = {
    "allocating_lora": (
        "rank allocation by ablation (ALoRA, Liu et al. 2024, arXiv 2403.16187) scores the model anew for every rank "
        "of every layer each time that it allocates, at least 1,680 passes at rank 8 on the default model, on rows "
        "held back from training, and moves ranks under a running optimizer: a method here sees training rows alone "
        "and owns neither optimizer nor loop. method=adalora allocates ranks from the gradients that there are anyway"
    ),
}
