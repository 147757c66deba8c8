"""Claims -> text and tables, in no format yet."""
