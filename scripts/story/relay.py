"""A relay between the Nodes and their bucket, which can be cut or made slow, as networks are."""

import socket
import threading
import time

from processes import free_port


class Relay:
    """Passes connections on to one loopback port."""

    def __init__(self, target):
        self.target, self.port = target, free_port()
        self.cut, self.delay = False, 0.0
        self.open = set()
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near, _ = self.listener.accept()
            if self.cut:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self.lock:
                self.open |= {near, far}
            # What goes to the bucket waits; its answers do not.
            threading.Thread(target=self.pass_on, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self.pass_on, args=(far, near, False), daemon=True).start()

    def pass_on(self, source, sink, slowly):
        try:
            while piece := source.recv(1 << 16):
                if slowly and self.delay:
                    time.sleep(self.delay)
                sink.sendall(piece)
        except OSError:
            pass
        for end in (source, sink):
            with self.lock:
                self.open.discard(end)
            self.close(end)

    @staticmethod
    def close(end):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        end.close()

    def away(self, is_away):
        """Cuts every connection and takes no new one; or lets them through again."""
        self.cut = is_away
        with self.lock:
            ends = list(self.open) if is_away else []
        for end in ends:
            self.close(end)
