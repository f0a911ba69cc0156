"""The plane's way to Redis: needs the extra ``redis``."""

try:
    from isolane.cluster.redis.link import Link
    from isolane.cluster.redis.subscriber import Subscriber
    from isolane.cluster.redis.target import Target, check_url
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "redis":
        raise
    raise ModuleNotFoundError(
        "several workers share limits and events on Redis, and redis is not installed: pip install 'isolane[redis]'",
        name="redis",
    ) from error

__all__ = ["Link", "Subscriber", "Target", "check_url"]
