"""The same function over many shards, in this process or in several, results as they come."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

from stillroom.errors import StillroomError

BACKENDS = ("local", "ray")

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C reaches the workers too; the parent says what there is to say, they end without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Several processes with a thread pool each would fight over the same cores.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def _end_with_parent() -> None:
    """Wait for the parent's end, and end: a parent killed by SIGKILL tells nobody, its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # it is a worker
    parent.join()
    os._exit(1)


def mapper(backend: str, workers: int) -> Callable[[Callable[[T], R], Sequence[T]], Iterator[R]]:
    """Return what runs a function over items: `map_unordered` on `workers` processes (0: one a core), or on Ray."""
    if backend == "ray":
        from stillroom.ray_backend import map_unordered_ray

        return partial(map_unordered_ray, workers=workers)
    return partial(map_unordered, workers=workers or available_cores())


def map_unordered(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """Yield `function(item)` for every item as each is done; order is not kept.

    `function` and the items must be picklable. With one worker, or one item, nothing is spawned. A worker that is
    killed (out of memory, say) is a `StillroomError`.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            # No list of the futures is kept: each would hold its result until the last one is done.
            for future in as_completed([pool.submit(function, item) for item in items]):
                yield future.result()
        except BrokenProcessPool:
            raise StillroomError(
                "a worker process died (killed, or out of memory); run again to go on, with fewer --set workers=N"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
