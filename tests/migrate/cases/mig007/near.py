"""Absence that stays absence, names of other things, and what is only shown."""

import logging

logger = logging.getLogger(__name__)


def who(state, data, user_id: str = "", thread_id: str | None = None):
    name = data.get("name", "anonymous")
    title = data["title"] or "default_user"
    user = state.user_id or None
    other = data.get("user_id", "")
    run = data.get("run_id", None)
    row = [state.user_id or "-", data.get("run_id", "?")]
    log_debug(f"for {state.user_id or 'anonymous'}")
    if not title:
        title = "anonymous"
    if state.user_id:
        thread_id = "main"
    logger.info("user %s", user_id or "anonymous")
    print(f"for {state.user_id or 'anonymous'}")
    return row, make(user_id="ann"), name, title, user, other, run, thread_id


def log_debug(text, user_id="me", session_id="all"):
    return text, user_id, session_id


def make(user_id, kind="default_user"):
    return user_id, kind
