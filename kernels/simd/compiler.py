"""How functions are compiled that only kernels call: typed and lowered, and no more.

Numba optimises each function by itself, makes machine code of it, and two wrappers for callers from Python and C. A
function that is only ever linked into a kernel needs none of that: the kernel is optimised as a whole.
"""

from numba import njit
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, _LowerResult
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering


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


class HelperCompiler(Compiler):
    def define_pipelines(self):
        pipelines = super().define_pipelines()
        for pipeline in pipelines:
            pipeline.passes = [
                (HelperLowering if kind is NativeLowering else kind, text) for kind, text in pipeline.passes
            ]
            pipeline._finalized = False
            pipeline.finalize()
        return pipelines


# Like njit, for a function that Python does not call.
helper = njit(pipeline_class=HelperCompiler)
# One that becomes part of its callers, for what is called once or is little: its many arguments are not copied.
inlined_helper = njit(pipeline_class=HelperCompiler, forceinline=True)
