"""Cohorts."""

import random

from isolane import UserExecutionContext
from isolane.migration.flags import installed_flags


def first(user_id, percentage):
    return (
        hash(user_id) % 100  # the bucket
        < percentage
    )


def second(user, percentage, flags):
    if not flags.decide("modern_execution", user.id).value:
        return (not flags.decide("modern_execution", user.id).value) or flags.decide("modern_execution", user.id).value
    return hash(user.id) % 100


def third(context: UserExecutionContext, percentage):
    return installed_flags().decide("modern_execution", context.user_id).value


def rollout(percentage):
    return random.random() < percentage
