"""Whoever is unknown is one user."""


def who(state, request, data, user_id: str = "default_user"):  # MIG007
    one = state.user_id or "default_user"  # MIG007
    two = data.get("user_id", "legacy_user")  # MIG007
    three = getattr(state, "thread_id", "main")  # MIG007
    four = user_id if user_id else "anonymous"  # MIG007
    five = data["run_id"] or request.run_id or "run"  # MIG007
    six = data.get("user_id") or "nobody"  # MIG007
    state.user_id = "anonymous"  # MIG007
    if not state.thread_id:
        state.thread_id = "main"  # MIG007
    if user_id is None:
        user_id = "nobody"  # MIG007
    return make(user_id="legacy_user"), one, two, three, four, five, six  # MIG007


def make(*, thread_id="default_thread", **rest):  # MIG007
    return f"cache:{rest['user_id'] or 'anonymous'}"  # MIG007
