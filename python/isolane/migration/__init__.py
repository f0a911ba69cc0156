"""From a service with singletons to one run context a user: flags, guard, legacy beside modern, tools."""
