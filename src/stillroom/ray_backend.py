"""The same function over many shards on Ray Data: a Ray of this machine, or the cluster that RAY_ADDRESS names.

`map_unordered_ray` keeps the promises of `stillroom.parallel.map_unordered`, so a stage can take either. The items go
out and the results come back through Ray's object store; only this process writes files.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from stillroom.errors import ConfigError, MissingDependencyError, StillroomError
from stillroom.parallel import available_cores

T = TypeVar("T")
R = TypeVar("R")

# How often Ray starts an item again whose process or machine died (our choice; Ray Data's own is without end, so that
# a shard that takes more memory than there is would never be reported).
RETRIES = 3
# One thread a worker, as in stillroom.parallel; Ray itself sees to the first only, and not where the user has set it.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# Shared memory of a local Ray (our choice): results wait there, and work pauses while they fill half of it.
STORE_BYTES = 2**28
STORE_BYTES_PER_WORKER = 2**25
CONNECT_SECONDS = 10.0
START_ATTEMPTS = 3


def map_unordered_ray(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """Yield `function(item)` for every item as each is done, on Ray; order is not kept.

    Args:
        function: picklable; every machine imports its module, and that of the items, from its own installation.
        items: picklable; each is one task of one CPU.
        workers: items at work at once; 0 takes every CPU of the cluster, or core of this machine.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: the cluster at RAY_ADDRESS cannot be reached.
        StillroomError: a task died on every attempt. What `function` raises arrives as it was raised.
    """
    if not items:
        return
    require_ray()
    with _connected(min(workers or available_cores(), len(items))):
        for answer in _answers(function, items, workers):
            value = pickle.loads(answer)
            if isinstance(value, _Raised):
                raise value.error
            yield value


def require_ray() -> None:
    """Find out whether Ray Data is there.

    Raises:
        MissingDependencyError: it is not.
    """
    # Set before Ray is loaded: it reports its use to its makers unless told otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray.data  # noqa: F401
    except ImportError:
        raise MissingDependencyError("ray", "ray", "--backend ray") from None


class _Raised:
    """An exception on its way back: inside a result, because Ray would wrap it in its own and print a page."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _work(rows: pa.Table, function: Callable[[Any], Any]) -> pa.Table:
    """Run the one item of a block, in a process of Ray's."""
    (item,) = rows["item"].to_pylist()
    try:
        answer = pickle.dumps(function(pickle.loads(item)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller is to see it
        if not isinstance(error, StillroomError):
            error.add_note(traceback.format_exc())
        answer = pickle.dumps(_Raised(error))
    return pa.table({"answer": pa.array([answer], pa.large_binary())})


def _answers(function: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[pa.Buffer]:
    """Stream the pickled results; Ray Data holds the work back while they are not taken."""
    import ray

    with _quiet():
        data = ray.data.from_items([{"item": pickle.dumps(item)} for item in items], override_num_blocks=len(items))
        tasks = data.map_batches(
            partial(_work, function=function),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.TaskPoolStrategy(size=workers or None),
            num_cpus=1,
            max_retries=RETRIES,
            runtime_env={"env_vars": dict.fromkeys(THREAD_VARIABLES, "1")},
        )
        try:
            for block in tasks.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for answer in block["answer"]:
                    yield answer.as_buffer()
        except ray.exceptions.RayError as error:
            raise StillroomError(_said(error)) from None


def _said(error: Exception) -> str:
    """Say in a line what Ray says in many."""
    from ray.exceptions import OutOfMemoryError, RayTaskError

    line = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__).strip()[
        :300
    ]
    if isinstance(error, RayTaskError):
        return f"a Ray worker cannot run the work ({line}); install the same stillroom with its extras on every machine"
    more = "more memory per worker" if isinstance(error, OutOfMemoryError) else "its log, or fewer --set workers=N"
    return f"a Ray worker died {RETRIES + 1} times on one shard ({line}); run again to go on, with {more}"


@contextmanager
def _connected(workers: int) -> Iterator[None]:
    """Use the Ray that is running in this process, or join RAY_ADDRESS, or start one here; end what was begun."""
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        _join(address)
        try:
            yield
        finally:
            ray.shutdown()  # which leaves the cluster running
        return
    # Ray's sockets lie below this folder, and the path of a socket may have about 100 characters: TMPDIR can be long.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
    try:
        _start(workers, folder)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _start(workers: int, folder: str) -> None:
    """Start a Ray of this machine, with its files in `folder`."""
    import ray

    # Ray waits 30 seconds for its own processes, which on a busy machine is not always enough.
    for attempt in reversed(range(START_ATTEMPTS)):
        try:
            ray.init(
                address="local",
                num_cpus=workers,
                object_store_memory=max(STORE_BYTES, STORE_BYTES_PER_WORKER * workers),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                # What can be imported here can be there, however this process came to find it.
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}},
                _temp_dir=folder,
                _system_config={"task_oom_retries": RETRIES},
            )
            return
        except Exception as error:  # noqa: BLE001 - Ray itself raises nothing more particular
            ray.shutdown()
            if not attempt:
                line = (str(error).splitlines() or [type(error).__name__])[0][:300]
                raise StillroomError(
                    f"Ray does not start on this machine ({line}); try again, or without --backend ray"
                ) from None


def _join(address: str) -> None:
    import ray

    try:
        if place := re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address):
            # Ray itself tries for minutes before it says that nobody is there.
            socket.create_connection((place[1], int(place[2])), timeout=CONNECT_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        line = (str(error).splitlines() or [""])[0][:300]
        raise ConfigError(f"no Ray cluster at RAY_ADDRESS={address} ({line}); unset it for a local Ray") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Data's bars and talk off the terminal; its log file still has the talk."""
    from ray.data import DataContext

    context = DataContext.get_current()
    handlers = [one for one in logging.getLogger("ray.data").handlers if isinstance(one, logging.StreamHandler)]
    bars, levels = context.enable_progress_bars, [handler.level for handler in handlers]
    context.enable_progress_bars = False
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            # `max_retries` has no other way in: Ray 2.60 to 2.63 announce one for later.
            warnings.filterwarnings("ignore", message=".*ray_remote_args")
            yield
    finally:
        context.enable_progress_bars = bars
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)
