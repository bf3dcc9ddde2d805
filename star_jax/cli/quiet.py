"""Keeps the start-up messages of TensorFlow, absl, Orbax and JAX from the terminal."""

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# Lines of absl's C++ logging at the levels INFO and WARNING, and the line above the first of them.
CHATTER = re.compile(rb"[IW]\d{4} |WARNING: All log messages before absl::InitializeLog")


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Heavy imports belong in here; errors, and messages that are not CHATTER, are still shown.

    TensorFlow's C++ writes its first lines before it reads any setting, and to the file descriptor.
    So stderr is held back, and all but those lines is shown at the end.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    for name in ("absl", "orbax", "jax", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            os.write(2, b"".join(line for line in held if not CHATTER.match(line)))


def is_stdout_closed() -> bool:
    """Whether the reader of stdout is gone, as in `star_jax --help | head -1`.

    If it is, what is still to be printed is dropped, or Python would complain of it at its end.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
