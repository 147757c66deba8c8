"""From `conf/` to an `Experiment`: the only package that knows Hydra and OmegaConf."""
