"""How kernels are compiled, and the functions that only kernels call: with no more of Numba than that takes.

Numba optimises each function by itself, makes machine code of it, and two wrappers for callers from Python and C. A
function that is only ever linked into a kernel needs none of that: it is typed and lowered, and the kernel is
optimised as a whole. Nor do kernels need those of Numba's passes that are for closures, lists of constants and objects.
"""

import contextlib
import gc
from functools import cached_property
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit
from numba.core import cgutils
from numba.core.codegen import CodeLibrary, JITCodeLibrary
from numba.core.compiler import Compiler, _LowerResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager, _pass_registry, register_pass
from numba.core.runtime import rtsys
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
    """LLVM IR that waits to be linked into a kernel, together with that of the helpers it calls."""

    def __init__(self, codegen, name):
        CodeLibrary.__init__(self, codegen, name)
        self._linking_libraries: list[CodeLibrary] = []
        self._reload_init: set[Any] = set()  # CodeLibrary has it from numba 0.63.1 on
        self._final_module: Any = None
        self._shared_module: Any = None

    def add_ir_module(self, ir_module):
        for function in ir_module.functions:
            if not function.is_declaration and not function.linkage:
                function.linkage = "linkonce_odr"  # linked into many, each of which drops it when all calls are inlined
        module = llvm.parse_assembly(cgutils.normalize_ir_text(str(ir_module)))
        module.data_layout = self._codegen._data_layout
        if self._final_module is None:
            self._final_module = module
        else:
            self._final_module.link_in(module)

    def finalize(self):
        for library in self._linking_libraries:
            self._reload_init.update(library._reload_init)
        self._finalize_dynamic_globals()
        self._finalized = True

    def _get_module_for_linking(self):
        """For what is no kernel and so links only what it calls itself: with all that this calls."""
        if self._shared_module is None:
            self._shared_module = self._final_module.clone()
            for library in all_linked(self._linking_libraries):
                self._shared_module.link_in(module_of(library), preserve=True)
        return self._shared_module


def all_linked(libraries):
    """Libraries, and those that the helpers among them link, each once."""
    found: dict[CodeLibrary, None] = {}
    waiting = list(libraries)
    while waiting:
        library = waiting.pop()
        if library not in found:
            found[library] = None
            if isinstance(library, HelperLibrary):
                waiting += library._linking_libraries
    return found


def module_of(library):
    """The LLVM IR of a helper alone, or of another function with all that it calls."""
    return library._final_module if isinstance(library, HelperLibrary) else library._get_module_for_linking()


class FinishedLibrary(HelperLibrary):
    """LLVM IR that is written as it is to run: the optimiser would take long to change nothing."""

    def add_ir_module(self, ir_module):
        super().add_ir_module(ir_module)
        fold_constants(self._final_module, self._codegen._tm)


def fold_constants(module, machine):
    passes = llvm.create_new_function_pass_manager()
    passes.add_instruction_combine_pass()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options())
    for function in module.functions:
        if not function.is_declaration:
            passes.run(function, builder)


@contextlib.contextmanager
def finished(context):
    """A module for the functions that an intrinsic calls, which the kernel's optimiser does not see."""
    library = FinishedLibrary(context.codegen(), "finished")
    module = library.create_ir_module(library.name)
    yield module
    library.add_ir_module(module)
    library.finalize()
    context.active_code_library.add_linking_library(library)


def declared(module, function):
    """In `module`, a function of another one, which does not return by an exception and is not inlined."""
    if function.name in module.globals:
        return module.globals[function.name]
    declaration = ir.Function(module, function.function_type, function.name)
    for attribute in ("noinline", "nounwind"):
        declaration.attributes.add(attribute)
    return declaration


# What the wrapper for Python calls instead of NRT_decref, which means nothing in most kernels.
WRAPPERS_DECREF = "fastfc.decref"


def counting(*functions):
    """Functions of a reference, each of which calls another one or does nothing."""
    module, kind = ir.Module("counting"), ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
    for name, calls in functions:
        function = ir.Function(module, kind, name)
        function.linkage = "linkonce_odr"
        function.attributes.add("alwaysinline")
        builder = ir.IRBuilder(function.append_basic_block())
        if calls:
            builder.call(ir.Function(module, kind, calls), function.args)
        builder.ret_void()
    return llvm.parse_assembly(cgutils.normalize_ir_text(str(module)))


class KernelLibrary(JITCodeLibrary):
    """A kernel with its helpers, each linked once, optimised as a whole but for what is finished."""

    def add_ir_module(self, ir_module):
        if "NRT_adapt_ndarray_from_python" in ir_module.globals and "NRT_decref" in ir_module.globals:
            ir_module.globals["NRT_decref"].name = WRAPPERS_DECREF
        super().add_ir_module(ir_module)

    def _optimize_final_module(self):
        late = lambda library: isinstance(library, FinishedLibrary) or library is rtsys.library
        self.link(lambda library: not late(library))
        if any(function.name.startswith("NRT_MemInfo") for function in self._final_module.functions):
            self.link(lambda library: library is rtsys.library)
        else:
            # Whoever calls it keeps its arguments alive, and it makes no arrays: each count of references would be a
            # call before and after which all is read and written anew.
            self._final_module.link_in(counting(("NRT_incref", None), ("NRT_decref", None)))
        for function in self._final_module.functions:
            if function.linkage == llvm.Linkage.linkonce_odr:
                function.linkage = "internal"
        passes, builder = self._codegen._module_pass_manager()
        passes.run(self._final_module, builder)
        self._final_module.link_in(counting((WRAPPERS_DECREF, "NRT_decref")))
        self.link(late)

    def link(self, wanted):
        for library in filter(wanted, all_linked(self._linking_libraries)):
            self._final_module.link_in(module_of(library), preserve=True)

    def finalize(self):
        for library in self._linking_libraries:
            self._reload_init.update(library._reload_init)
        self._raise_if_finalized()
        self._optimize_final_module()
        self._finalize_final_module()


@register_pass(mutates_CFG=True, analysis_only=False)
class KernelLowering(NativeLowering):
    """Numba's lowering, into a KernelLibrary and without a wrapper for C."""

    _name = "fastfc_kernel_lowering"

    def run_pass(self, state):
        state.library = KernelLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        state.flags.no_cfunc_wrapper = True
        return super().run_pass(state)


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
    lowering = KernelLowering

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


class Helper:
    """A nopython function that others call; Python may run its source.

    Numba's dispatcher of it is made when a caller is compiled: most processes find their kernels compiled.
    """

    def __init__(self, function, **options):
        self.py_func, self.options = function, options
        self.__doc__, self.__name__ = function.__doc__, function.__name__

    def __call__(self, *args):
        return self.py_func(*args)

    @cached_property
    def dispatcher(self):
        return njit(pipeline_class=HelperCompiler, **self.options)(self.py_func)

    @property
    def _numba_type_(self):
        return self.dispatcher._numba_type_


def helper(function):
    """Decorator: see Helper."""
    return Helper(function)


def inlined_helper(function):
    """Decorator: a Helper that becomes part of its callers.

    For what is called once or is little: its many arguments are not copied.
    """
    return Helper(function, forceinline=True)
