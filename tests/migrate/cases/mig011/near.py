"""Keys of a user's own, keys without parts, and what is no cache."""


def answer(cache, question, user_id, user, tenant, settings, ctx):
    cache.get(f"answer:{user_id}:{question}")
    cache.set(f"answer:{user.id}:{question}", 1)
    cache.get(f"{tenant.key}:{question}")
    cache.get(f"session:{question}")
    cache.get("configuration")
    cache.get(question)
    cache.get(ctx.get_scoped_key(f"x:{question}"))
    settings.get(f"answer:{question}")
    key = f"answer:{question}"
    if user:
        key = f"answer:{user}:{question}"
    cache.get(key)
    cache.get(f"plain")
