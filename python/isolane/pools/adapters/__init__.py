"""What hands out the real things. Each imports its library on first use; nothing here is needed without."""
