"""Applications that show isolane at work."""
