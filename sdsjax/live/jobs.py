"""A queue of runs, each a process of its own: one at a time, in the order they came.

A process that crashes or runs out of memory takes nothing with it, and gives a device's
memory back. Stopping one is SIGTERM: it writes a checkpoint first, and the same job
goes on from there.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

Status = Literal["waiting", "running", "done", "stopped", "failed"]
PREFIX = "sdsjax: "
PATIENCE = 120  # seconds that a stopped run has for its checkpoint


class Job:
    """A job is a run that was asked for: its directory, command and fate.

    news: the last line that it said; status: failed where its process says so.
    """

    def __init__(self, folder: Path, command: Sequence[str]):
        self.folder, self.command = folder, list(command)
        self.status: Status = "waiting"
        self.news = ""


class Jobs:
    """Jobs in the order they came, and the thread that runs them; a context.

    environment: of the processes, by default this one's.
    """

    def __init__(self, environment: Mapping[str, str] | None = None):
        self._environment = environment
        self._all: list[Job] = []
        self._process: subprocess.Popen | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run_all, daemon=True)

    def __enter__(self) -> Jobs:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self.stop(lambda job: True)
        self._thread.join(timeout=PATIENCE)

    def list(self) -> list[Job]:
        """Lists all of them, the oldest first."""
        with self._changed:
            return list(self._all)

    def add(self, job: Job) -> bool:
        """Adds a job at the end; False where its directory has one that is not done."""
        with self._changed:
            for other in self._all:
                busy = other.status in ("waiting", "running")
                if busy and other.folder == job.folder:
                    return False
            self._all.append(job)
            self._changed.notify()
        return True

    def stop(self, which: Callable[[Job], bool]) -> int:
        """Stops those that run, and drops those that wait; returns how many."""
        count = 0
        with self._changed:
            for job in self._all:
                if job.status == "waiting" and which(job):
                    job.status = "stopped"
                elif job.status == "running" and which(job) and self._process:
                    job.status = "stopped"
                    self._process.terminate()
                else:
                    continue
                count += 1
        return count

    def _next(self) -> Job | None:
        with self._changed:
            while not self._closed:
                for job in self._all:
                    if job.status == "waiting":
                        return job
                self._changed.wait()
        return None

    def _run_all(self) -> None:
        while (job := self._next()) is not None:
            with self._changed:
                if job.status != "waiting":
                    continue
                try:
                    process = self._process = self._started(job)
                except OSError as error:
                    job.status, job.news = "failed", f"cannot be started: {error}"
                    continue
                job.status = "running"
            status = self._followed(job, process)
            with self._changed:
                self._process = None
                if job.status == "running":
                    job.status = "done" if status == 0 else "failed"

    def _started(self, job: Job) -> subprocess.Popen:
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=self._environment,
            # Ctrl-C is this process's, which then stops its children itself
            start_new_session=True,
        )

    def _followed(self, job: Job, process: subprocess.Popen) -> int:
        """Reads what a process says until it ends; returns its exit status."""
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip():
                job.news = line.strip().removeprefix(PREFIX)
        return process.wait()
