"""The default job in a process of its own, with a clock at every boundary of it.

    python worker.py STEPS WORKDIR

Prints one JSON object: `marks` [name, wall clock s, processor s] in order, each from
the mark before; `compilations` and `compiled` (s in XLA's compiler or in reading its
cache); `exports` (wall clock s a file); `sha256` of the final state; `truth`.
Only what every state of the repository since the first has in common is used.
"""

import json
import sys
import time


class Clock:
    """Wall clock and processor time (all threads) since the mark before."""

    def __init__(self):
        self.marks: list[tuple[str, float, float]] = []
        self.last = time.perf_counter(), time.process_time()

    def mark(self, name: str) -> None:
        """Ends what is called `name`; several of one name add up in the table."""
        now = time.perf_counter(), time.process_time()
        wall, processor = (b - a for a, b in zip(self.last, now))
        self.marks.append((name, wall, processor))
        self.last = now


def main(steps: int, workdir: str) -> dict:
    """Runs the job; returns what is printed."""
    clock = Clock()
    import jax

    from sdsjax.cli import checks
    from sdsjax.cli.config_files import locate
    from sdsjax.training import train

    clock.mark("import")
    counted, seconds = 0, 0.0

    def compiled(event: str, duration: float, **_) -> None:
        nonlocal counted, seconds
        if event == "/jax/core/compile/backend_compile_duration":
            counted, seconds = counted + 1, seconds + duration

    jax.monitoring.register_event_duration_secs_listener(compiled)
    build = train.build

    def timed_build(config):
        clock.mark("config")
        components = build(config)
        clock.mark("prompt and networks")
        return components

    train.build = timed_build

    def on_event(name: str, content: dict) -> None:
        if name == "advance":  # every step; "step" is every tenth, in all trees
            return
        first = name == "step" and content["step"] <= 10
        clock.mark({True: "compile, first 10 steps"}.get(first, name))

    config = checks.resolve(locate("ssd"), {"steps": steps})
    asset = train.run(config, workdir, command=["sdsjax"], on_event=on_event)
    finished = json.loads((asset.workdir / "finished.json").read_text())
    truth = asset.metrics.get("truth") or {}
    return {
        "marks": clock.marks,
        "compilations": counted,
        "compiled": seconds,
        "exports": asset.metrics["export_seconds"],
        "sha256": finished["state_sha256"],
        "truth": {k: v for k, v in truth.items() if k not in ("views", "ceiling")},
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), sys.argv[2])))
