"""What tests of several processes use: real Redis servers."""

from tests.support.redis_server import clean_redis, fresh_redis, redis_nodes, redis_server

__all__ = ["clean_redis", "fresh_redis", "redis_nodes", "redis_server"]
