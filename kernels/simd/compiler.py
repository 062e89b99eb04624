"""How kernels are compiled, and the functions that only kernels call: with no more of Numba than that takes.

Numba optimises each function by itself, makes machine code of it, and two wrappers for callers from Python and C. A
function that is only ever linked into a kernel needs none of that: it is typed and lowered, and the kernel is
optimised as a whole. Nor do kernels need those of Numba's passes that are for closures, lists of constants and objects.
"""

import contextlib
import gc

from numba import njit
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, _LowerResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager, _pass_registry, register_pass
from numba.core.typed_passes import NativeLowering, NopythonRewrites
from numba.core.untyped_passes import (
    FindLiterallyCalls,
    InlineClosureLikes,
    InlineInlinables,
    LiteralPropagationSubPipelinePass,
    LiteralUnroll,
    WithLifting,
)


class HelperLibrary(JITCodeLibrary):
    """LLVM IR that waits to be linked into a kernel."""

    def _optimize_functions(self, ll_module):
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class HelperLowering(NativeLowering):
    """Numba's lowering, into a HelperLibrary and without wrappers."""

    _name = "fastfc_helper_lowering"

    def run_pass(self, state):
        state.library = HelperLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_cpython_wrapper = state.flags.no_cfunc_wrapper = state.flags.no_compile = True
        super().run_pass(state)
        state.library.finalize()
        # Numba finds the function by its entry point: a builtin, unlike any other, which raises if Python calls it
        nothing: list[object] = []
        entry = nothing.remove
        fndesc, call_helper, _, env = state["cr"]
        state.targetctx.insert_user_function(entry, fndesc, [state.library])
        state.reload_init.extend(state.library._reload_init)
        state["cr"] = _LowerResult(fndesc, call_helper, cfunc=entry, env=env)
        return True


class Passes(PassManager):
    """Numba's passes without the event that describes each with all its flags, for others to log."""

    @global_compiler_lock
    def run(self, state):
        for kind, _ in self.passes:
            compiler_pass = _pass_registry.get(kind).pass_inst
            compiler_pass.analysis = self._analysis
            compiler_pass.run_initialization(state)
            compiler_pass.run_pass(state)
            compiler_pass.run_finalizer(state)


class KernelCompiler(Compiler):
    """Numba's compiler for kernels: what is in `unused` would find nothing to do there."""

    unused = frozenset(
        [
            FindLiterallyCalls,
            InlineClosureLikes,
            InlineInlinables,
            LiteralPropagationSubPipelinePass,
            LiteralUnroll,
            NopythonRewrites,
            WithLifting,
        ]
    )
    lowering = NativeLowering

    def define_pipelines(self):
        pipelines = []
        for pipeline in super().define_pipelines():
            passes = Passes(pipeline.pipeline_name)
            passes.passes = [
                (self.lowering if kind is NativeLowering else kind, text)
                for kind, text in pipeline.passes
                if kind not in self.unused
            ]
            passes.finalize()
            pipelines.append(passes)
        return pipelines


class HelperCompiler(KernelCompiler):
    lowering = HelperLowering


@contextlib.contextmanager
def rare_collections():
    """Look for garbage rarely: the many objects that a compile makes stay until its end."""
    before = gc.get_threshold()
    gc.set_threshold(*((50_000, 50, 1000) if before[0] else before))
    try:
        yield
    finally:
        gc.set_threshold(*before)


# Like njit, for a function that Python does not call.
helper = njit(pipeline_class=HelperCompiler)
# One that becomes part of its callers, for what is called once or is little: its many arguments are not copied.
inlined_helper = njit(pipeline_class=HelperCompiler, forceinline=True)
