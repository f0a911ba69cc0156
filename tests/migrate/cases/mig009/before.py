"""Cohorts."""

import random

from isolane import UserExecutionContext


def first(user_id, percentage):
    return (
        hash(user_id) % 100  # the bucket
        < percentage
    )


def second(user, percentage, flags):
    if not hash(user.id) % 100 < percentage:
        return percentage <= hash(user.id) % 100 or 25 > hash(user.id) % 100
    return hash(user.id) % 100


def third(context: UserExecutionContext, percentage):
    return random.random() * 100 < percentage


def rollout(percentage):
    return random.random() < percentage
