"""The way through a real server: `server` is uvicorn in a process of its own, `client` reads and counts."""
