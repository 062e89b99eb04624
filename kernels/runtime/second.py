"""The second process of `plan`: compiles kernels into the cache, those that nobody else compiles, and ends."""

import importlib
import os
import sys
import threading

from numba import types


def end_with_parent():
    """Nothing is ever written to this process: its input ends when its parent does."""
    sys.stdin.buffer.read()
    os._exit(0)


def main(dtype, modules, *names):
    threading.Thread(target=end_with_parent, daemon=True).start()
    importlib.import_module("fastfc")
    for module in modules.split(","):
        importlib.import_module(module)
    from fastfc.kernels.runtime import plan
    from fastfc.kernels.runtime.native import compiled_kernels

    plan.local.only_compiles = True
    for name in reversed(names):  # the first process begins with the first
        compiled_kernels[name].compile_only(getattr(types, dtype))
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
