"""What stands where etcd would: one Node of Netsy, or the original, to see that the story is one about etcd.
Three Nodes are in `trio.py`."""

import json
import os
import shutil
import urllib.request

from processes import Process, free_port, wait_for


class Store:
    """What the apiserver is told of its store, and one process of it."""

    def __init__(self, home):
        self.home, self.port = home / "store", free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    @property
    def processes(self):
        """In the order in which they are stopped."""
        return [self.process]

    def flags(self):
        """What the apiserver is started with."""
        return [f"--etcd-servers={self.url}"]

    def external(self):
        """What kubeadm is told of it."""
        return {"endpoints": [self.url]}

    def get(self, path):
        with urllib.request.urlopen(f"{self.url}{path}", timeout=5) as answer:
            return answer.read().decode()

    def start(self):
        self.process.start()
        wait_for(f"{self.process.name} to be healthy", lambda: json.loads(self.get("/health"))["health"] == "true", 120)

    def stop(self):
        for process in self.processes:
            process.stop()


class Netsy(Store):
    """`netsy dev`: one Node, a directory as its bucket."""

    def __init__(self, home, program):
        super().__init__(home)
        self.http = free_port()
        command = [program, "dev", "--dir", self.home, "--listen", f"127.0.0.1:{self.port}"]
        self.process = Process("netsy", [*command, "--http", f"127.0.0.1:{self.http}"], home)

    def lose_disk(self):
        """What the Node itself keeps. The bucket stays."""
        shutil.rmtree(self.home / "node-1")

    def back_up(self, to):
        shutil.copytree(self.home / "bucket", to)

    def restore(self, copy):
        """Puts a copy in the place of the bucket; the Node begins with an empty disk."""
        shutil.rmtree(self.home)
        shutil.copytree(copy, self.home / "bucket")

    def size(self):
        """Bytes in the bucket and on the Node's disk."""
        return tuple(tree_size(self.home / part) for part in ("bucket", "node-1"))


class Etcd(Store):
    """The original, to see that the story is one about etcd."""

    def __init__(self, home, program):
        super().__init__(home)
        peer = f"http://127.0.0.1:{free_port()}"
        command = [program, "--data-dir", self.home, "--log-level", "warn", "--name", "one"]
        command += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}"]
        self.process = Process("etcd", command, home)

    def size(self):
        return 0, tree_size(self.home)


def tree_size(top):
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(top) for name in names)
