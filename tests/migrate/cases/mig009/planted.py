"""Cohorts that change."""

import random
from decimal import Decimal
from random import randint as draw


def enabled(user_id, percentage, user):
    bucket = hash(f"flag:{user_id}") % 100  # MIG009
    if hash(user.id) % 100 < percentage:  # MIG009
        return True
    if abs(hash(str(user))) % 1000 >= 5:  # MIG009
        return False
    if random.random() < percentage:  # MIG009
        return True
    if Decimal(str(random.uniform(0, 100))) <= percentage:  # MIG009
        return True
    return bucket


def in_rollout(share):
    return random.random() * 100 < share  # MIG009


def canary(key, x):
    return draw(1, 100) <= x or hash(key) % 10 < 3  # MIG009
