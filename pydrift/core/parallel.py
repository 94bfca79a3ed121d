"""One model per thread, and no threads inside an operation.

Small networks gain little from torch's intra-op threads and lose a lot on shared cores, where waiting threads spin.
So independent models run side by side, each on one thread, and their bits do not depend on how many run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`function` of every item, in order, computed by as many threads as torch has been given.

    Inside, torch runs with one intra-op thread; the caller's setting comes back when the iterator ends or is closed.
    After an exception the items that no thread has begun are dropped. `function` must not draw from torch's global
    generator.
    """
    # Each thread says so itself: until its first parallel loop a new one would run products on all cores, and last bits
    # would depend on which thread took which item.
    with (
        one_intra_op_thread() as threads,
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        futures = deque(pool.submit(function, item) for item in items)
        try:
            while futures:
                yield futures.popleft().result()  # not kept: results may be large
        finally:
            for future in futures:
                future.cancel()


@contextmanager
def intra_op_threads(count: int) -> Iterator[int]:
    """torch with so many intra-op threads inside; yields the number that it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)  # new threads take it over when they first run an operation
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def with_one_blas_thread(function: Callable[..., Result]) -> Callable[..., Result]:
    """`function` with numpy's products on one thread: with more, their last bits change from run to run."""
    limited: Callable[..., Result] = threadpool_limits.wrap(limits=1, user_api="blas")(function)
    return limited


def one_intra_op_thread() -> AbstractContextManager[int]:
    """torch with one intra-op thread inside; yields the number that it had."""
    return intra_op_threads(1)
