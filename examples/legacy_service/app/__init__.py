"""A help desk whose agents answer from a user's own notes. It grew on singletons: see the README before copying it."""
