"""A control plane on one machine: a store, kube-apiserver, kube-controller-manager, kube-scheduler and kwok, which
plays the nodes. Everything is on loopback, on ports nobody uses, in one directory, with certificates of its own."""

import json
import os
import subprocess

from api import Api
from processes import Failed, NotRun, Process, free_port, wait_for

# Users of the apiserver: the token is the name with `-token` behind it.
USERS = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
}
# A documentation address: where the `kubernetes` Service says the apiserver is. Nothing connects to it.
ADVERTISED = "192.0.2.1"


class Plane:
    """The processes, and the ways to reach them."""

    def __init__(self, home, binaries, kwok, store):
        self.home, self.binaries, self.kwok_program, self.store = home, binaries, kwok, store
        self.port = free_port()
        self.compaction = "1m"
        make_keys(home)
        self.kubeconfigs = {user: self.kubeconfig(user) for user in USERS}
        self.write_tokens()
        self.apiserver = Process("kube-apiserver", self.apiserver_command(), home)
        self.controllers = Process("kube-controller-manager", self.controllers_command(), home)
        self.scheduler = Process("kube-scheduler", self.scheduler_command(), home)
        self.nodes = Process("kwok", self.kwok_command(), home)
        self.api = Api(self.port, "admin-token", home / "ca.crt")

    def all(self):
        """In the order in which they are stopped."""
        return [self.nodes, self.scheduler, self.controllers, self.apiserver, *self.store.processes]

    def start(self):
        self.store.start()
        self.start_apiserver()
        for process in (self.controllers, self.scheduler, self.nodes):
            if process.built():
                process.start()

    def start_apiserver(self):
        # With this variable the apiserver dies when its cache and its store differ.
        self.apiserver.start(KUBE_WATCHCACHE_CONSISTENCY_CHECKER="true")
        wait_for("the apiserver to be ready", self.ready, 180)

    def ready(self):
        if not self.apiserver.alive():
            raise Failed("the apiserver has ended; see its log")
        return self.api.ask("GET", "/readyz").code == 200

    def stop(self):
        for process in self.all():
            process.stop()
        self.store.stop()
        self.api.forget()

    def needs(self, *processes):
        """Passes over the step if one of these programs could not be built."""
        for process in processes:
            if not process.built():
                raise NotRun(f"{process.name} is not built")

    def write_tokens(self):
        rows = (f'{user}-token,{user},{user}{f",{group}" if group else ""}' for user, group in USERS.items())
        (self.home / "tokens.csv").write_text("\n".join(rows) + "\n")

    def kubeconfig(self, user):
        """A kubeconfig for one user, as JSON, which is YAML too."""
        cluster = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.home / "ca.crt")}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": {"token": f"{user}-token"}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }
        path = self.home / f"{user.removeprefix('system:')}.kubeconfig"
        path.write_text(json.dumps(content))
        return path

    def apiserver_command(self):
        return [
            self.binaries / "kube-apiserver",
            *self.store.flags(),
            f"--etcd-compaction-interval={self.compaction}",
            "--bind-address=127.0.0.1",
            f"--advertise-address={ADVERTISED}",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self.home}/server.crt",
            f"--tls-private-key-file={self.home}/server.key",
            f"--token-auth-file={self.home}/tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.home}/accounts.key",
            f"--service-account-signing-key-file={self.home}/accounts.key",
        ]

    def controllers_command(self):
        return [
            self.binaries / "kube-controller-manager",
            f"--kubeconfig={self.kubeconfigs['system:kube-controller-manager']}",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            f"--root-ca-file={self.home}/ca.crt",
            f"--service-account-private-key-file={self.home}/accounts.key",
            "--use-service-account-credentials=true",
            "--concurrent-deployment-syncs=10",
            "--concurrent-namespace-syncs=10",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]

    def scheduler_command(self):
        return [
            self.binaries / "kube-scheduler",
            f"--kubeconfig={self.kubeconfigs['system:kube-scheduler']}",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]

    def kwok_command(self):
        return [
            self.kwok_program,
            f"--kubeconfig={self.kubeconfigs['admin']}",
            f"--config={self.kwok_program}.yaml",
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=40",
            f"--server-address=127.0.0.1:{free_port()}",
        ]

    def kubeadm_preflight(self):
        """What kubeadm complains of before it would start a control plane on this store."""
        settings = {"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration"}
        settings |= {"etcd": {"external": self.store.external()}, "kubernetesVersion": self.version()}
        (self.home / "kubeadm.yaml").write_text(json.dumps(settings))
        command = [str(self.binaries / "kubeadm"), "init", "phase", "preflight", "--config", "kubeadm.yaml"]
        return subprocess.run(command, cwd=self.home, capture_output=True, text=True, timeout=120).stderr

    def version(self):
        return self.api.get("/version")["gitVersion"]

    def kubectl(self, *words, stdin=None, fails=False):
        """What kubectl prints. With `fails` it has to fail, and what it complains about is the answer."""
        command = [str(self.binaries / "kubectl"), f"--kubeconfig={self.kubeconfigs['admin']}", *words]
        text = json.dumps(stdin) if isinstance(stdin, dict) else stdin
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=300, env={**os.environ, "HOME": str(self.home)}
        )
        if (done.returncode != 0) != fails:
            raise Failed(f"kubectl {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()[:500]}")
        return done.stderr if fails else done.stdout


def make_keys(home):
    """An authority, the apiserver's certificate, and the key that signs service account tokens."""
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:kubernetes.default.svc,IP:10.0.0.1"
    (home / "names").write_text(names + "\n")
    authority = "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=story-authority -keyout ca.key -out ca.crt"
    request = "req -newkey rsa:2048 -nodes -subj /CN=kube-apiserver -keyout server.key -out server.csr"
    signed = "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile names -out server.crt"
    for words in (authority, request, signed, "genrsa -out accounts.key 2048"):
        subprocess.run(["openssl", *words.split()], cwd=home, check=True, capture_output=True)
