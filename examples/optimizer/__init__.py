"""Cost optimizer for LLM usage logs: two users side by side, each with agents, events and data of their own."""
