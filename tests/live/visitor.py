"""A visitor of a page of viser's: a client without a screen. Not a test.

It says where it looks from, as a browser does, and reads all that is sent.
"""

import contextlib
import threading
import time

import msgspec
import viser
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

CAMERA = {
    "type": "ViewerCameraMessage",
    "wxyz": (1.0, 0.0, 0.0, 0.0),
    "position": (0.0, 0.0, -3.0),
    "fov": 0.8,
    "near": 0.01,
    "far": 1000.0,
    "image_height": 600,
    "image_width": 900,
    "look_at": (0.0, 0.0, 0.0),
    "up_direction": (0.0, 1.0, 0.0),
}


class Visitor:
    """What a visitor has read, in bytes."""

    def __init__(self, socket):
        self.read, self._socket = 0, socket

    def listen(self):
        with contextlib.suppress(ConnectionClosed):
            for message in self._socket:
                self.read += len(message)


@contextlib.contextmanager
def visiting(server):
    """Looks at the page of a viser.ViserServer."""
    address = f"ws://{server.get_host()}:{server.get_port()}"
    version = f"viser-v{viser.__version__}"
    with connect(address, subprotocols=[version], max_size=None) as socket:
        visitor = Visitor(socket)
        socket.send(msgspec.msgpack.encode(CAMERA))
        listening = threading.Thread(target=visitor.listen, daemon=True)
        listening.start()
        while not server.get_clients():
            time.sleep(0.01)
        yield visitor
