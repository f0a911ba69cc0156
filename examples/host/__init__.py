"""A service written against the modules of an existing one, of which only the import lines change."""
