"""How many messages a measurement has, and how they are produced: both processes have to know."""

import enum

RUNS = 6
"""A user's runs. One log holds 1000 events, and a measurement needs more; 4 MiB are the bound of a user's logs."""
EVENTS = 900
"""Events of each run that are measured: their log does not fold."""
MESSAGES = RUNS * EVENTS
BURST = 16


class Shape(enum.StrEnum):
    """What is measured."""

    DRAIN = "drain"
    """Everything was published before the client came."""
    BURSTS = "bursts"
    """`BURST` events are published, then the loop gets a turn, and so on."""
    SINGLE = "single"
    """One event is published in each turn of the loop."""


class Way(enum.StrEnum):
    """Who writes: also the path of the route."""

    ISOLANE = "ws"
    """isolane's own route, as `setup` makes it: one message for each event."""
    FRAMES = "frames"
    """The same route with the subprotocol, which sends up to 16 events in a frame."""
    BARE = "bare"
    """A loop of `send_text` with one constant text, with `sleep(0)` between when the shape is `SINGLE`."""
    QUEUE = "queue"
    """An `asyncio.Queue` between an emitter with `json.dumps` and a loop of `send_text`."""


GO = '{"t":"pong"}'
"""Also a message of the subprotocol, which takes no others."""
DONE = "done"
