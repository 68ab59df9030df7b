"""A process that watches over a process of a run on several hosts.

JAX's runtime ends a process whose peers are gone at once, with a page of C++ stack, and
no code of ours runs any more. So the job is a child: its lines are passed on without
that page, signals too, and what it died of is said in one line. The child ends when
this process does. Imports nothing but the standard library.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from typing import TextIO

from sdsjax.distributed.launch import Launch

MARK = "SDSJAX_SUPERVISED_BY"  # in the child's environment: its parent's pid
JOINED = "sdsjax: joined"  # what a child says once it has met the others
JOIN_SECONDS = 60  # that processes wait for one another at the start
LOST_SECONDS = 30  # without a sign of life, after which a process counts as lost
LOST_STATUS, MISTAKE_STATUS = 6, 2  # runs/exit_status
PEER_GONE = (
    "another process of this run has ended or cannot be reached: its own last line "
    "says why; the same command, given to all, continues from the last checkpoint"
)
# lines of abseil's log and of its stack traces
CHATTER = re.compile(
    r"[EWIF]\d{4} \d\d:\d\d:|\*\*\* Check failure|    @ +0x|RPC: /|PC: @|"
    r"(\[Gloo\] Rank )?\d* ?is connected to \d+ peer|\[Gloo\]|I0000|"
    r"W0000|E0000|F0000|\*\*\* SIG|\[type\.googleapis"
)
# jaxlib's report of a lost peer goes on for lines that look like nothing: what comes
# after its first one is passed on only where it is ours
REPORT = re.compile(r"[EF]\d{4} \d\d:\d\d:.*(coordination_service|client\.h)")
OURS = ("sdsjax: ", "Traceback")
REASON = re.compile(r"absl::Status: (\w+: [^\n]*)")


def is_supervised() -> bool:
    """Tells whether this process is the child of `supervise`."""
    return os.environ.get(MARK) == str(os.getppid())


def end_with_parent(seconds: float = 0.5) -> None:
    """Has this process end when the one that supervises it is gone."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(seconds)
        os._exit(LOST_STATUS)

    threading.Thread(target=watch, daemon=True).start()


def supervise(command: list[str], launch: Launch) -> int:
    """Runs `command` as a child that joins other processes; returns its exit status.

    2 where it did not meet them within JOIN_SECONDS, 6 where it lost them later.
    """
    child = subprocess.Popen(
        command,
        env={**os.environ, MARK: str(os.getpid())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C comes through us, once
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: child.send_signal(n))
    joined, said, reason, reported = False, False, "", False
    assert child.stdout is not None
    assert child.stderr is not None
    passing = threading.Thread(target=pass_on, args=(child.stdout, sys.stdout))
    passing.start()
    for line in child.stderr:
        joined = joined or line.startswith(JOINED)
        said = said or line.startswith("sdsjax: error")
        found = REASON.search(line)
        reason = found.group(1) if found else reason
        reported = bool(REPORT.match(line)) or (reported and not line.startswith(OURS))
        if not reported:
            pass_on([line], sys.stderr)
    passing.join()
    status = child.wait()
    if status >= 0:
        return status
    line, status = epitaph(-status, joined, reason, launch)
    if not said:
        print(f"sdsjax: error: {line}", file=sys.stderr, flush=True)
    return status


def pass_on(lines: Iterable[str], stream: TextIO) -> None:
    """Writes lines as they come, but for the chatter of C++."""
    for line in lines:
        if not CHATTER.match(line):
            stream.write(line)
            stream.flush()


def epitaph(number: int, joined: bool, reason: str, launch: Launch) -> tuple[str, int]:
    """Says in one line what signal `number` ended a child for, with an exit status."""
    if number != signal.SIGABRT:
        name = signal.Signals(number).name
        return f"the process was ended by {name}; the same command continues", (
            128 + number
        )
    if joined:
        return PEER_GONE, LOST_STATUS
    who = f"process {launch.process} of {launch.processes}"
    where = launch.coordinator or f"the coordinator that {launch.said_by} names"
    return (
        f"{who if launch.process is not None else 'this process'} could not join the "
        f"others at {where} within {JOIN_SECONDS} s ({reason or 'no answer'}): start "
        "every process with the same --coordinator_address, a reachable HOST:PORT of "
        "process 0, the same --num_processes, and a --process_id of its own",
        MISTAKE_STATUS,
    )
