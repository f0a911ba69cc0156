"""Moving a service of singletons onto isolane, user by user."""
