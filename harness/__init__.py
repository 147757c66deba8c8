"""Which fine-tuning method should be used, at what cost, and how sure are we? One runner, one record a run."""

__version__ = "0.1.0"
