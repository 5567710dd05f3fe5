"""Tells a story about a real control plane whose store is Netsy, and says of each step whether it held.

Start it with `scripts/kubernetes run newest`. Everything lives on loopback in a temporary directory, and is gone
afterwards unless --keep is given. The exit status is 0 only if no step failed.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import after, boot, controllers, ending, failures, lists, objects, trio_failures, watches  # noqa: F401 (they hold the steps)
from plane import Plane
from store import Etcd, Netsy
from telling import CHAPTERS, Table, World
from trio import Trio

# `quiet` is told before anything is broken on purpose.
ORDER = ["boot", "objects", "lists", "controllers", "watches", "quiet", "restart", "failures", "after", "ending", "restore"]


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/kubernetes run newest|oldest", description=__doc__)
    parser.add_argument("--kubernetes", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--kwok", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--netsy", type=Path, default=Path("target/release/netsy"), help="the program to try")
    parser.add_argument("--etcd", type=Path, help="an etcd to tell the story of instead, to try the story itself")
    parser.add_argument("--trio", action="store_true", help="three Nodes with mutual TLS, the bucket on an S3-compatible server")
    parser.add_argument("--only", default=",".join(ORDER), help="chapters, with commas: %(default)s")
    parser.add_argument("--many", type=float, default=1.0, help="part of the full numbers of objects, as 0.1")
    parser.add_argument("--keep", action="store_true", help="keep the directory with logs and data")
    return parser.parse_args()


def main():
    given = arguments()
    home = Path(tempfile.mkdtemp(prefix="netsy-story-"))
    store = store_of(given, home)
    plane = Plane(home, given.kubernetes, given.kwok, store)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"everything is in {home}", flush=True)
    table = Table()
    try:
        plane.start()
        tell(table, World(plane, given.many), given.only.split(","))
    finally:
        plane.stop()
    if not given.keep and table.good():
        shutil.rmtree(home)
    table.show()
    return 0 if table.rows and table.good() else 1


def store_of(given, home):
    if given.etcd:
        return Etcd(home, given.etcd.resolve())
    return (Trio if given.trio else Netsy)(home, given.netsy.resolve())


def tell(table, world, chapters):
    for chapter in (name for name in ORDER if name in chapters):
        # Three Nodes fail in ways of their own.
        if chapter == "failures" and isinstance(world.store, Trio):
            chapter = "trio"
        for title, function in CHAPTERS[chapter]:
            table.tell(chapter, title, function, world)


if __name__ == "__main__":
    sys.exit(main())
