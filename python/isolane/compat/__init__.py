"""The host's own modules, name for name: switch an import line, and the rest of the code stays.

One module here for each of the host's. Contexts, ids and errors are isolane's own classes; factories, engines and
emitters have the host's argument order, metric keys and attributes. ``isolane.compat.surface`` lists every name and
what became of it, and ``docs/compat.md`` shows the list.
"""
