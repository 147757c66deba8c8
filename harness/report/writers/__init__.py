"""Tables and text -> Markdown, LaTeX, CSV, Parquet, terminal, W&B, TensorBoard."""
