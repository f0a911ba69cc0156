"""Keys that are the same for everybody."""


def answer(cache, redis_client, question, self):
    one = cache.get(f"answer:{question}")  # MIG011
    redis_client.setex(f"answer:{question}", 60, one)  # MIG011
    key = f"summary:{question.text}"
    self._cache.set(key, one)  # MIG011
    return get_cache().get(f"{question}")  # MIG011


def get_cache():
    return {}
