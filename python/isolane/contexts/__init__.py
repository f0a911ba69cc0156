"""Contexts: factories, and how a context is closed."""
