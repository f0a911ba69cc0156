"""Synthetic users, so that there is something to watch: they run the real agents over real sockets."""
