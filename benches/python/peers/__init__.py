"""What isolane is compared with: the same rules, written the way one would write them without it."""
