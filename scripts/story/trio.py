"""Three Nodes of Netsy with mutual TLS on every port, and a bucket on an S3-compatible server behind a relay."""

import json
import os
import re
import shutil
import ssl
import subprocess
import time
import urllib.request

from processes import Process, free_port, wait_for
from relay import Relay
from store import Store, tree_size

NAMES = ("node-1", "node-2", "node-3")
CLUSTER = "story"
PREFIX = "control-plane"


class Node(Process):
    """One Node: a process, a disk, three ports."""

    def __init__(self, name, program, home):
        self.disk = home / name
        self.port, self.peer, self.http = free_port(), free_port(), free_port()
        super().__init__(name, [program, "serve", "--config", home / f"{name}.toml"], home)

    def url(self):
        return f"https://127.0.0.1:{self.port}"

    def is_ready(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/readyz", timeout=5) as answer:
            return answer.status == 200

    def lose_disk(self):
        shutil.rmtree(self.disk)


class Trio(Store):
    """The cluster. Which Node is Primary or Elector is read in the bucket, as an operator could."""

    def __init__(self, home, program):
        super().__init__(home)
        self.home.mkdir()
        # .ci/s3 has started the server, and ends it. Netsy would take these for settings of its own.
        self.endpoint, self.bucket = (os.environ.pop(f"NETSY_TEST_S3_{name}") for name in ("ENDPOINT", "BUCKET"))
        self.relay = Relay(int(self.endpoint.rsplit(":", 1)[1]))
        names = [word for name in NAMES for word in ("--node", name)]
        certs = [program, "certs", "--dir", self.home / "certs", "--cluster-id", CLUSTER, *names, "--client", "apiserver"]
        subprocess.run(certs, check=True, capture_output=True)
        self.nodes = [Node(name, program, self.home) for name in NAMES]
        for node in self.nodes:
            (self.home / f"{node.name}.toml").write_text(self.settings(node))
        self.tls = ssl.create_default_context(cafile=str(self.cert("ca.crt")))
        self.tls.load_cert_chain(self.cert("apiserver.crt"), self.cert("apiserver.key"))

    def cert(self, name):
        return self.home / "certs" / name

    def settings(self, node):
        def port(kind, number):
            files = (f'{key}_file = "{self.cert(file)}"' for key, file in (
                ("cert", f"{kind}-{node.name}.crt"), ("key", f"{kind}-{node.name}.key"), ("ca", "ca.crt")))
            return f'listen = "127.0.0.1:{number}"\n' + "\n".join(files)

        return f"""
cluster_id = "{CLUSTER}"
node_id = "{node.name}"
data_dir = "{node.disk}"

[bucket]
url = "s3://{self.bucket}/{PREFIX}"
endpoint = "http://127.0.0.1:{self.relay.port}"
allow_http = true

[client]
{port("server", node.port)}

[peer]
{port("peer", node.peer)}

[http]
listen = "127.0.0.1:{node.http}"

[reads]
when_degraded = "refuse"
"""

    @property
    def processes(self):
        return self.nodes

    def flags(self):
        servers = ",".join(node.url() for node in self.nodes)
        return [
            f"--etcd-servers={servers}",
            f"--etcd-cafile={self.cert('ca.crt')}",
            f"--etcd-certfile={self.cert('apiserver.crt')}",
            f"--etcd-keyfile={self.cert('apiserver.key')}",
        ]

    def external(self):
        files = {"caFile": "ca.crt", "certFile": "apiserver.crt", "keyFile": "apiserver.key"}
        endpoints = {"endpoints": [node.url() for node in self.nodes]}
        return endpoints | {key: str(self.cert(name)) for key, name in files.items()}

    def get(self, path):
        """From any Node, as a client would."""
        with urllib.request.urlopen(f"{self.nodes[0].url()}{path}", timeout=5, context=self.tls) as answer:
            return answer.read().decode()

    def start(self):
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            wait_for(f"{node.name} to be ready", node.is_ready, 120)
        wait_for("a majority that commits", lambda: len(self.register()["voters"]) == len(self.nodes), 60)

    def document(self, name):
        return json.loads(self.ask("GET", f"{PREFIX}/{name}"))

    def register(self):
        return self.document("leader/primary.json")

    def named(self, name):
        return next(node for node in self.nodes if node.name == name)

    def primary(self):
        register = wait_for("a primary", lambda: (r := self.register())["phase"] == "active" and r["primary"] and r, 60)
        return self.named(register["primary"]["node_id"])

    def elector(self):
        return self.named(wait_for("an elector", lambda: self.document("leader/elector.json")["elector"], 60)["node_id"])

    def whole(self):
        """Waits until every Node is ready and votes again."""
        def votes():
            voters = {voter["node_id"] for voter in self.register()["voters"]}
            return voters == set(NAMES) and all(node.is_ready() for node in self.nodes)

        wait_for("every node to vote again", votes, 120)

    def ask(self, verb, key, body=None):
        request = urllib.request.Request(f"{self.endpoint}/{self.bucket}/{key}", body, method=verb)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def back_up(self, to):
        """Copies every object, as any tool would that copies a prefix."""
        # What a majority holds is in the bucket a second later.
        time.sleep(3)
        to.mkdir()
        for key in self.keys():
            part = to / key.removeprefix(f"{PREFIX}/")
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(self.ask("GET", key))

    def restore(self, copy):
        """Puts a copy in the place of the bucket, but for the word on who was Primary; the Nodes begin with empty disks."""
        for key in self.keys():
            self.ask("DELETE", key)
        for part in (part for part in copy.rglob("*") if part.is_file()):
            name = part.relative_to(copy).as_posix()
            if not name.startswith("leader/"):
                self.ask("PUT", f"{PREFIX}/{name}", part.read_bytes())
        for node in self.nodes:
            node.lose_disk()

    def listed(self, tag):
        """What a list of the bucket says of each object: its Key, or its Size."""
        said, token = [], ""
        while token is not None:
            query = f"?list-type=2&prefix={PREFIX}/" + (f"&continuation-token={token}" if token else "")
            page = self.ask("GET", query).decode()
            said += re.findall(rf"<{tag}>([^<]+)</{tag}>", page)
            more = re.search(r"<NextContinuationToken>([^<]+)</NextContinuationToken>", page)
            token = more[1] if more else None
        return said

    def keys(self):
        return self.listed("Key")

    def size(self):
        return sum(map(int, self.listed("Size"))), sum(tree_size(node.disk) for node in self.nodes)
