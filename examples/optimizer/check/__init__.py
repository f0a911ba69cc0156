"""Two users at once over real WebSockets, and a verdict on what each of them received."""
