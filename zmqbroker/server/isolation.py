"""Work in a child process, for reading files that may end whoever reads them.

LMDB maps its file and follows the page numbers in it: where those are damaged, or the file is shorter than it says, the process
gets SIGSEGV or SIGBUS and no error. The caller must have one thread.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import resource
import signal
import traceback
from collections.abc import Callable
from typing import TypeVar

from zmqbroker.errors import BrokerError, Corruption

__all__ = ["isolated"]

_Result = TypeVar("_Result")


def isolated(work: Callable[[], _Result], what: str) -> _Result:
    """The result of `work`, done in a child; it must be possible to pickle it.

    Raises Corruption, naming `what`, when a signal ended the child, and what `work` raises of BrokerError and OSError.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _work(work, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise Corruption(f"{what}: is damaged: reading it ends with {name}")
    error, result = pickle.loads(data)
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def _work(work: Callable[[], object], writing: int) -> None:
    """The child: nothing of the parent's is cleaned up here. Its death is expected: it leaves no core and no traceback."""
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    outcome: tuple[BaseException | None, object] = RuntimeError("the child has failed; see above"), None
    try:
        outcome = None, work()
    except (BrokerError, OSError) as error:
        outcome = error, None
    finally:
        if isinstance(outcome[0], RuntimeError):
            traceback.print_exc()
        with open(writing, "wb") as pipe:
            pipe.write(pickle.dumps(outcome))
        os._exit(0)
