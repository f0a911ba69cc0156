"""Hashes and draws of other kinds."""

import hashlib
import random


def shard(key, shards, user_id, sample_rate, percentage):
    place = hash(key) % len(shards)
    stable = int(hashlib.sha256(user_id.encode()).hexdigest(), 16) % 100 < percentage
    if random.random() < sample_rate:
        place = 0
    augment = random.random() < 0.5
    jitter = random.uniform(0, 1)
    return place, stable, augment, jitter, hash(user_id)


def own(hash, user_id):
    return hash(user_id) % 100
