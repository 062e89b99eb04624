"""fastfc in threadpoolctl: `threadpool_limits` limits our threads too.

threadpoolctl finds libraries by the names of their files. We have none, so LLVM's library, which every kernel comes
from, stands for us. It is not imported for this, but told of us when somebody imports it.
"""

import importlib.abc
import sys

from fastfc.kernels.runtime import threads


def register(threadpoolctl):
    """Tell the module threadpoolctl of us."""

    class Controller(threadpoolctl.LibController):  # type: ignore[name-defined]
        user_api = internal_api = "fastfc"
        filename_prefixes = "libllvmlite", "llvmlite"

        def get_num_threads(self):
            return threads.auto_threads()[0]

        def set_num_threads(self, num_threads):
            threads.limit_to(num_threads)

        def get_version(self):
            return None

    threadpoolctl.register(Controller)


class ImportHook(importlib.abc.MetaPathFinder):
    """Has threadpoolctl registered as soon as it is imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "threadpoolctl":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    register(module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if "threadpoolctl" in sys.modules:
    register(sys.modules["threadpoolctl"])
else:
    sys.meta_path.insert(0, ImportHook())
