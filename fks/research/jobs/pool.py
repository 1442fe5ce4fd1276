"""Trials over several processes of this machine, without a database: `fks optimize run`, notebooks.

Each process is forked with the task in its memory, so the bars are shared and not copied. Results come in any order.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from fks.model.errors import FksError
from fks.research.search import SearchTask, Trial, evaluate
from fks.research.search.run import Asked, Evaluate

_CHUNK = 4  # trials sent at once: few, so that all processes end at about the same time


class Processes:
    """Evaluates trials in `count` processes; a context manager that ends them. Use `search(..., evaluate_all=pool)`.

    It serves one task. Errors: FksError when a process dies (memory, a crash in a strategy's native code).
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._processes: list[tuple[BaseProcess, Connection]] = []
        self._task: SearchTask | None = None

    def __enter__(self) -> Evaluate:
        return self._evaluate

    def __exit__(self, *error: object) -> None:
        for process, line in self._processes:
            line.close()
            process.join(0.5)
            if process.is_alive():
                process.kill()
                process.join()
        self._processes = []

    def _start(self, task: SearchTask) -> None:
        context = multiprocessing.get_context("fork")
        self._task = task
        for _ in range(self._count):
            ours, theirs = context.Pipe()
            others = [line for _, line in self._processes]
            process = context.Process(target=_serve, args=(task, theirs, [ours, *others]), daemon=True)
            process.start()
            theirs.close()
            self._processes.append((process, ours))

    def _evaluate(self, task: SearchTask, asked: Iterable[Asked]) -> Iterator[Trial]:
        if self._task is None:
            self._start(task)
        if task is not self._task:
            raise ValueError("these processes serve another task")
        waiting = deque(asked)
        busy: dict[Connection, int] = {}
        for _, own in self._processes:
            _send(own, waiting, busy)
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                line: Connection = ready
                try:
                    answer = line.recv()
                except EOFError:
                    raise FksError(
                        "a process that ran trials died", remedy="use fewer workers, or look at what the strategy does"
                    ) from None
                if isinstance(answer, Exception):
                    raise answer
                del busy[line]
                _send(line, waiting, busy)
                yield from answer


def _send(line: Connection, waiting: deque[Asked], busy: dict[Connection, int]) -> None:
    part = [waiting.popleft() for _ in range(min(_CHUNK, len(waiting)))]
    if part:
        line.send(part)
        busy[line] = len(part)


def _serve(task: SearchTask, line: Connection, others: list[Connection]) -> None:
    """Run trials until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends its children
    for other in others:
        other.close()  # inherited ends would keep a line open whose owner has died
    while True:
        try:
            part = line.recv()
        except EOFError:
            return
        try:
            line.send([evaluate(task, fold, proposal) for fold, proposal in part])
        except Exception as error:  # a refused tape: the parent raises it
            line.send(error)
