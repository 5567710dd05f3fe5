"""A client that watches: it keeps what it is told, in order, and goes on from where it stood when its connection
ends, as an informer does."""

import http.client
import json
import socket
import threading
import time

from processes import wait_for


class Watcher(threading.Thread):
    """A watch on one collection from one resourceVersion, until it is closed or told that it came too late."""

    def __init__(self, api, path, version, again=True, **parameters):
        super().__init__(daemon=True)
        self.api, self.path, self.version, self.again = api, path, version, again
        self.parameters = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": "3000", **parameters}
        self.events = []
        self.error = None
        self.connections = 0
        self.closed = False
        self.connection = None
        self.start()

    def run(self):
        while not self.closed and self.error is None:
            try:
                self.read()
            except (OSError, ValueError, AttributeError, http.client.HTTPException):
                time.sleep(0.1)
            if not self.again:
                return

    def read(self):
        """One connection, from the last resourceVersion that was seen."""
        self.connections += 1
        self.connection = self.api.connect(timeout=None)
        query = "&".join(f"{name}={value}" for name, value in {**self.parameters, **self.at()}.items())
        self.connection.request("GET", f"{self.path}?{query}", headers=self.api.headers())
        answer = self.connection.getresponse()
        if answer.status in (404, 410):
            self.error = json.loads(answer.read())
        while answer.status == 200 and (line := answer.readline()):
            self.take(json.loads(line))

    def at(self):
        return {} if self.version is None else {"resourceVersion": self.version}

    def take(self, event):
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            self.error = item
            return
        self.version = item["metadata"]["resourceVersion"]
        self.events.append((kind, item))

    def close(self):
        self.closed = True
        if self.connection and self.connection.sock:
            try:
                self.connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.join(5)

    def seen(self, kind):
        """Names of the objects it was told this of, in order."""
        return [item["metadata"].get("name") for told, item in list(self.events) if told == kind]

    def versions(self):
        """resourceVersions in the order they came, without bookmarks."""
        return [int(item["metadata"]["resourceVersion"]) for kind, item in self.events if kind != "BOOKMARK"]

    def wait(self, kind, name, seconds=20):
        wait_for(f"{kind} {name} on the watch of {self.path}", lambda: name in self.seen(kind), seconds)
