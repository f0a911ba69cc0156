"""The sockets of the browsers."""
