"""A stand-in for an existing service's own modules: their names, and the singletons that they stand on.

As little as `examples.host.app` needs. What goes wrong here goes wrong on purpose: `isolane.compat` is to be compared
with it.
"""
