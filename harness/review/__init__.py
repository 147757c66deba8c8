"""The referee: results of anybody -> findings, in the order in which a reviewer would raise them."""
