"""The dashboard: what a service does at this moment, for those who run it."""

from isolane.observability.dashboard.router import dashboard_router

__all__ = ["dashboard_router"]
