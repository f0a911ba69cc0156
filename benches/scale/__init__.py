"""Several workers on one Redis: limits beside a lock and a counter, events beside python-socketio's manager."""
