"""A service behind HTTP as a target: its configuration, its process, its users."""
