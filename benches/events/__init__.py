"""Events on their way to clients: isolane's route, a bare loop and python-socketio under the same uvicorn."""
