"""Absence that stays absence, names of other things, and what is only shown."""

import logging

logger = logging.getLogger(__name__)


def who(state, data, user_id: str = "", thread_id: str | None = None):
    name = data.get("name", "anonymous")
    title = data["title"] or "default_user"
    user = state.user_id or None
    other = data.get("user_id", "")
    run = data.get("run_id", None)
    logger.info("user %s", user_id or "anonymous")
    print(f"for {state.user_id or 'anonymous'}")
    return make(user_id="ann"), name, title, user, other, run, thread_id


def make(user_id, kind="default_user"):
    return user_id, kind
