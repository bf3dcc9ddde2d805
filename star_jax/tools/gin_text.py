"""Values as the text that gin reads, for --gin.NAME=VALUE."""

from collections.abc import Mapping
from math import isfinite

from star_jax.errors import UserError


def gin_text(value: object, where: str) -> str:
    """The text that gin reads as `value`; a string that begins with @ or % is a reference.

    0.5 -> "0.5"; "a" -> "'a'"; ["%SEED", 1] -> "[%SEED, 1]".

    Raises:
      UserError: gin has no text for it.
    """
    if isinstance(value, str):
        return value if value[:1] in ("@", "%") else repr(value)
    if value is None or isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return repr(value)
    if isinstance(value, list | tuple):
        items = ", ".join(gin_text(item, where) for item in value)
        if isinstance(value, list):
            return f"[{items}]"
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, Mapping):
        pairs = (f"{gin_text(k, where)}: {gin_text(v, where)}" for k, v in value.items())
        return f"{{{', '.join(pairs)}}}"
    raise UserError(
        f"{where}: {str(value)[:60]!r} cannot be written on a command line; write strings, "
        f"numbers, lists, and references in quotes: '@LinearSteps()', '%SEED'"
    )
