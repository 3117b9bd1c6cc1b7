"""One BLAS thread for many small matrices: more of them only wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """Run a block, or as `@one_thread()` a function, with one BLAS thread.

    Laws are fitted with thousands of products of matrices of a few dozen rows. Threads gain
    nothing there, and on a busy machine each product waits for the slowest of them. The number
    of threads is as before afterwards.
    """
    with _controller().limit(limits=1, user_api="blas"):
        yield


@cache
def _controller() -> ThreadpoolController:
    """Return the BLAS libraries of the process; scipy brings one of its own."""
    import scipy.linalg  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
