"""Sources of files: package index, Hub, local folders and the cache; base models among them."""
