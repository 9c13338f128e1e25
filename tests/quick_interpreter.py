"""Triton's interpreter without what it does to no end, over half of its time; what it computes stays the same.

It reaches into Triton: a version that has not what is replaced here is left as it is.
"""

import dataclasses
from typing import Any

from triton.runtime import interpreter


def use() -> None:
    names = ("_patch_lang", "_get_np_dtype", "GridExecutor", "interpreter_builder")
    if not all(hasattr(interpreter, name) for name in names):
        return
    patch_lang, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    patched: set[int] = set()

    def patch_lang_once(fn: Any) -> Any:
        """It would look through the whole language at every call of a function, for what the first call replaced."""
        if id(fn.__globals__) in patched:
            return None
        patched.add(id(fn.__globals__))
        return patch_lang(fn)

    def launch_anew(self: Any, *args: Any, **kwargs: Any) -> Any:
        patched.clear()  # the launch before put the language back
        return launch(self, *args, **kwargs)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch_lang_once, launch_anew

    get_np_dtype, np_dtypes = interpreter._get_np_dtype, {}

    def get_np_dtype_once(dtype: Any) -> Any:
        """It would make a table of all types for each array."""
        name = dtype.scalar.name
        if name not in np_dtypes:
            np_dtypes[name] = get_np_dtype(dtype)
        return np_dtypes[name]

    interpreter._get_np_dtype = get_np_dtype_once
    # Sums are looked at for overflow, but what is found is asserted only if TRITON_DEBUG asks for it.
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
