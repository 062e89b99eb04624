"""The worker threads, and the one launcher that has them compute ranges of a job.

A job is a native function of (context, index, n_ranges), by address. The launcher publishes it in a ticket, a number
that holds the generation, how many ranges there are and which comes next. Whoever raises the ticket has that range:
workers, and the launching thread itself. So a launch never waits for a thread that has not begun, such as one whose
core is busy with something else; without any worker, as in a forked child, the launching thread computes all.

Workers belong to no threading layer of Numba. They run native code only, never Python, and sleep when there is
nothing to do: on a lock of Python's, after looking for the next job a few microseconds long. One launch has the
workers at a time; a second one, of another thread or of a job itself, computes its ranges alone.

Everything is one constant block of memory and some instructions that are atomic in it, made as LLVM IR in 20 ms when
the first launch is due.
"""

import ctypes
import os
import threading

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from fastfc.kernels.runtime.cache import compile_lock
from fastfc.kernels.runtime.fastcall import c_function
from fastfc.kernels.runtime.linkage import call_through_slot, define_symbol
from fastfc.kernels.simd.llvm import I8, I32, I64, pause

# How often a thread looks for the next job, or for the end of the present one, before it sleeps: some 20 to 50 µs.
# The products of a training step follow one another faster than that.
SPINS = 1000

MAX_WORKERS = 255
LINE = 16  # words of 8 bytes: two cache lines, which some processors fetch together
# Words of the block, each on a line of its own; then a line for each worker: whether it sleeps, its lock, and its
# thread as the system knows it.
OWNED, TICKET, DONE, WAITING, N_WORKERS, JOB, WORKERS = (LINE * i for i in range(7))
FUNCTION, CONTEXT, STATUS, ERROR, EXCEPTION = range(JOB, JOB + 5)
SLEEPS, LOCK, THREAD = range(3)

# Whether a worker can be told which cores to run on; how many cores a set of them has at most.
HAS_AFFINITY = all(hasattr(ctypes.pythonapi, name) for name in ("sched_getcpu", "pthread_setaffinity_np"))
MAX_CORES = 8192

# Bits of a ticket below the generation: the number of ranges, and the next of them.
RANGE_BITS = 12

TASK = types.int64(types.voidptr, types.int64, types.int64)  # (context, index, n_ranges) -> status
LAUNCH = types.int64(types.intp, types.voidptr, types.int64)  # (task, context, n_ranges) -> the greatest status


class Emitter:
    """Builds the functions of the pool around its block of memory."""

    def __init__(self, module, block):
        self.module, self.block = module, block
        self.convention = cpu_target.target_context.call_conv
        self.task = self.convention.get_function_type(TASK.return_type, TASK.args)
        self.exception = self.task.args[1].pointee

    def function(self, name, kind):
        function = ir.Function(self.module, kind, name)
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        return function

    def number(self, value):
        return ir.Constant(I64, value)

    def word(self, index):
        """Pointer to a word, of a number or of an i64."""
        offset = self.number(8 * index) if isinstance(index, int) else self.builder.shl(index, self.number(3))
        return self.builder.inttoptr(self.builder.add(self.number(self.block), offset), I64.as_pointer())

    def load(self, index):
        return self.builder.load_atomic(self.word(index), "seq_cst", 8)

    def store(self, index, value):
        value = self.number(value) if isinstance(value, int) else value
        self.builder.store_atomic(value, self.word(index), "seq_cst", 8)

    def change(self, operation, index, value):
        """The value before an atomic change."""
        value = self.number(value) if isinstance(value, int) else value
        return self.builder.atomic_rmw(operation, self.word(index), value, "seq_cst")

    def swap_if(self, index, before, after):
        """Whether the word was `before`; it is `after` then."""
        before, after = (self.number(v) if isinstance(v, int) else v for v in (before, after))
        result = self.builder.cmpxchg(self.word(index), before, after, "seq_cst", "seq_cst")
        return self.builder.extract_value(result, 1)

    def is_one(self, value):
        return self.builder.icmp_unsigned("==", value, self.number(1))

    def wait(self, index):
        """Sleep until the lock at a word is released."""
        lock = self.builder.inttoptr(self.load(index), I8.as_pointer())
        acquire = c_function(self.builder, "PyThread_acquire_lock", I32, I8.as_pointer(), I32)
        self.builder.call(acquire, [lock, ir.Constant(I32, 1)])

    def wake(self, index):
        lock = self.builder.inttoptr(self.load(index), I8.as_pointer())
        self.builder.call(c_function(self.builder, "PyThread_release_lock", ir.VoidType(), I8.as_pointer()), [lock])

    def holds_lock(self):
        """Whether this thread has Python's lock: PyGILState_Check, which says yes to all where subinterpreters are."""
        current = "PyThreadState_GetUnchecked"
        if not hasattr(ctypes.pythonapi, current):  # before Python 3.13
            current = "_PyThreadState_UncheckedGet"
        mine, holder = (
            self.builder.ptrtoint(self.builder.call(c_function(self.builder, name, I8.as_pointer()), []), I64)
            for name in ("PyGILState_GetThisThreadState", current)
        )
        is_any = self.builder.icmp_unsigned("!=", mine, self.number(0))
        return self.builder.and_(is_any, self.builder.icmp_unsigned("==", mine, holder))

    def next_range(self, ticket):
        """Of a ticket: the next range, and how many there are."""
        mask = self.number((1 << RANGE_BITS) - 1)
        n_ranges = self.builder.and_(self.builder.lshr(ticket, self.number(RANGE_BITS)), mask)
        return self.builder.and_(ticket, mask), n_ranges

    def has_work(self):
        return self.builder.icmp_unsigned("<", *self.next_range(self.load(TICKET)))

    def spin_until(self, condition):
        """Look some thousand times whether the condition has come true."""
        builder = self.builder
        loop, again, end = (builder.append_basic_block(name) for name in ("spin", "again", "spun"))
        before = builder.block
        builder.branch(loop)
        builder.position_at_end(loop)
        count = builder.phi(I64)
        count.add_incoming(self.number(0), before)
        more = builder.and_(builder.not_(condition()), builder.icmp_unsigned("<", count, self.number(SPINS)))
        builder.cbranch(more, again, end)
        builder.position_at_end(again)
        pause(builder)
        count.add_incoming(builder.add(count, self.number(1)), builder.block)
        builder.branch(loop)
        builder.position_at_end(end)

    def sleep_unless(self, condition, flag, lock):
        """Sleep, unless the condition comes true first; whoever takes the flag has to wake the sleeper."""
        builder = self.builder
        self.store(flag, 1)
        with builder.if_else(condition()) as (then, otherwise):
            with then, builder.if_then(builder.not_(self.is_one(self.change("xchg", flag, 0)))):
                self.wait(lock)  # somebody is about to wake us
            with otherwise:
                self.wait(lock)

    def call_task(self, function, context, index, n_ranges):
        """The status of the call in Numba's convention, and what the function returns."""
        function = self.builder.inttoptr(function, self.task.as_pointer())
        return self.convention.call_function(
            self.builder, function, TASK.return_type, TASK.args, [context, index, n_ranges]
        )

    def emit_keep_off(self):
        """void keep_off(i64 thread): let a worker run on this thread's cores but the one that this runs on."""
        keep_off = self.function("fastfc.pool.keep_off", ir.FunctionType(ir.VoidType(), [I64]))
        keep_off.linkage = "internal"
        builder = self.builder
        size, cores = self.number(MAX_CORES // 8), builder.alloca(ir.ArrayType(I64, MAX_CORES // 64))
        given = builder.bitcast(cores, I8.as_pointer())
        core = builder.sext(builder.call(c_function(builder, "sched_getcpu", I32), []), I64)
        ask = c_function(builder, "sched_getaffinity", I32, I32, I64, I8.as_pointer())
        status = builder.call(ask, [ir.Constant(I32, 0), size, given])
        is_known = builder.icmp_unsigned("<", core, self.number(MAX_CORES))
        with builder.if_then(builder.and_(is_known, builder.icmp_signed("==", status, ir.Constant(I32, 0)))):
            word = builder.gep(cores, [self.number(0), builder.lshr(core, self.number(6))])
            bit = builder.shl(self.number(1), builder.and_(core, self.number(63)))
            builder.store(builder.and_(builder.load(word), builder.not_(bit)), word)
            # with no core left this fails, and nothing changes
            tell = c_function(builder, "pthread_setaffinity_np", I32, I64, I64, I8.as_pointer())
            builder.call(tell, [keep_off.args[0], size, given])
        builder.ret_void()
        return keep_off

    def emit_wake_workers(self):
        """void wake_workers(i64 n): have the first n workers look for the job, on other cores than this thread's.

        Where a core that sleeps does not count as idle, as in virtual machines, a worker wakes on the core of whoever
        wakes it, and begins when that thread is done.
        """
        keep_off = self.emit_keep_off() if HAS_AFFINITY else None
        wake_workers = self.function("fastfc.pool.wake_workers", ir.FunctionType(ir.VoidType(), [I64]))
        wake_workers.linkage = "internal"
        builder = self.builder
        with cgutils.for_range(builder, wake_workers.args[0], intp=I64) as each:
            line = builder.add(self.number(WORKERS), builder.mul(each.index, self.number(LINE)))
            with builder.if_then(self.is_one(self.change("xchg", line, 0))):
                if keep_off:
                    builder.call(keep_off, [self.load(builder.add(line, self.number(THREAD)))])
                self.wake(builder.add(line, self.number(LOCK)))
        builder.ret_void()
        return wake_workers

    def emit_compute(self):
        """void compute(): take ranges of the present job until there are none left."""
        compute = self.function("fastfc.pool.compute", ir.FunctionType(ir.VoidType(), []))
        compute.linkage = "internal"
        builder = self.builder
        loop, taken, run, end = (builder.append_basic_block(name) for name in ("loop", "taken", "run", "end"))
        builder.branch(loop)
        builder.position_at_end(loop)
        ticket = self.load(TICKET)
        index, n_ranges = self.next_range(ticket)
        builder.cbranch(builder.icmp_unsigned("<", index, n_ranges), taken, end)
        builder.position_at_end(taken)
        # what the job is must be read before the range is taken: until then it may be over, and another one be written
        function, context = self.load(FUNCTION), builder.inttoptr(self.load(CONTEXT), I8.as_pointer())
        builder.cbranch(self.swap_if(TICKET, ticket, builder.add(ticket, self.number(1))), run, loop)
        builder.position_at_end(run)
        status, result = self.call_task(function, context, index, n_ranges)
        with builder.if_then(status.is_error):
            self.store(EXCEPTION, builder.ptrtoint(status.excinfoptr, I64))
            self.store(ERROR, builder.sext(status.code, I64))
        self.change("max", STATUS, result)
        done = builder.add(self.change("add", DONE, 1), self.number(1))
        last = builder.icmp_unsigned("==", done, n_ranges)
        with builder.if_then(last), builder.if_then(self.is_one(self.change("xchg", WAITING, 0))):
            self.wake(WAITING + LOCK)
        builder.branch(loop)
        builder.position_at_end(end)
        builder.ret_void()
        return compute

    def emit_worker(self, compute):
        """void worker(void *line): what a worker thread does, forever; `line` is its line in the block."""
        worker = self.function("fastfc.pool.worker", ir.FunctionType(ir.VoidType(), [I8.as_pointer()]))
        builder = self.builder
        line = builder.ptrtoint(worker.args[0], I64)
        loop = builder.append_basic_block("loop")
        builder.branch(loop)
        builder.position_at_end(loop)
        builder.call(compute, [])
        self.spin_until(self.has_work)
        with builder.if_then(builder.not_(self.has_work())):
            self.sleep_unless(self.has_work, line, builder.add(line, self.number(LOCK)))
        builder.branch(loop)

    def emit_launch(self, compute, wake_workers):
        """LAUNCH, in Numba's calling convention."""
        kind = self.convention.get_function_type(LAUNCH.return_type, LAUNCH.args)
        launch = self.function("fastfc.pool.launch", kind)
        builder, (result, exception, function, context, n_ranges) = self.builder, launch.args
        alone, shared = builder.append_basic_block("alone"), builder.append_basic_block("shared")
        n_workers = self.load(N_WORKERS)
        has_workers = builder.icmp_unsigned("!=", n_workers, self.number(0))
        with builder.if_then(builder.not_(has_workers)):
            builder.branch(alone)
        builder.cbranch(self.swap_if(OWNED, 0, 1), shared, alone)

        builder.position_at_end(alone)
        greatest = cgutils.alloca_once_value(builder, self.number(0))
        with cgutils.for_range(builder, n_ranges, intp=I64) as each:
            status, value = self.call_task(function, context, each.index, n_ranges)
            with builder.if_then(status.is_error):
                builder.store(status.excinfoptr, exception)
                builder.ret(status.code)
            before = builder.load(greatest)
            builder.store(builder.select(builder.icmp_signed(">", value, before), value, before), greatest)
        builder.store(builder.load(greatest), result)
        builder.ret(ir.Constant(kind.return_type, 0))

        builder.position_at_end(shared)
        # a worker may need Python's lock, to have a kernel compiled on demand
        thread = cgutils.alloca_once(builder, I8.as_pointer())
        held = self.holds_lock()
        with builder.if_then(held):
            builder.store(builder.call(c_function(builder, "PyEval_SaveThread", I8.as_pointer()), []), thread)
        self.store(FUNCTION, function)
        self.store(CONTEXT, builder.ptrtoint(context, I64))
        for word in (STATUS, ERROR, DONE):
            self.store(word, 0)
        bits = self.number(2 * RANGE_BITS)
        generation = builder.add(builder.lshr(self.load(TICKET), bits), self.number(1))
        ticket = builder.or_(builder.shl(generation, bits), builder.shl(n_ranges, self.number(RANGE_BITS)))
        self.store(TICKET, ticket)
        others = builder.sub(n_ranges, self.number(1))
        others = builder.select(builder.icmp_unsigned("<", others, n_workers), others, n_workers)
        builder.call(wake_workers, [others])
        builder.call(compute, [])

        def finished():
            return builder.icmp_unsigned("==", self.load(DONE), n_ranges)

        self.spin_until(finished)
        # a worker that was late to wake the launch before may wake this one too early
        waiting, end = builder.append_basic_block("waiting"), builder.append_basic_block("end")
        builder.cbranch(finished(), end, waiting)
        builder.position_at_end(waiting)
        self.sleep_unless(finished, WAITING, WAITING + LOCK)
        builder.cbranch(finished(), end, waiting)
        builder.position_at_end(end)
        status, error, raised = self.load(STATUS), self.load(ERROR), self.load(EXCEPTION)
        self.store(OWNED, 0)
        with builder.if_then(held):
            restore = c_function(builder, "PyEval_RestoreThread", ir.VoidType(), I8.as_pointer())
            builder.call(restore, [builder.load(thread)])
        builder.store(builder.inttoptr(raised, self.exception), exception)
        builder.store(status, result)
        builder.ret(builder.trunc(error, kind.return_type))


class Pool:
    """The workers of this process.

    Attributes
    ----------
    n_workers : int
        How many threads there are besides the one that launches.
    """

    name = "launch"  # of the slot

    def __init__(self):
        self.words = np.zeros((MAX_WORKERS + 7) * LINE, np.uint64)  # never freed, and so never moved
        self.slot, self.lock, self.n_workers = np.zeros(1, np.uintp), threading.Lock(), 0
        define_symbol(f"fastfc.{self.name}", self.slot.ctypes.data)

    def load(self):
        """Make the launcher, unless that is done."""
        if self.slot[0]:
            return
        with compile_lock():
            if self.slot[0]:
                return
            context = cpu_target.target_context
            library = context.codegen().create_library("fastfc.pool")
            module = library.create_ir_module("fastfc.pool")
            emitter = Emitter(module, self.words.ctypes.data)
            compute = emitter.emit_compute()
            emitter.emit_worker(compute)
            emitter.emit_launch(compute, emitter.emit_wake_workers())
            library.add_ir_module(module)
            library.finalize()
            # threads run it until the very end: nothing of it is ever freed
            ctypes.pythonapi.Py_IncRef(ctypes.py_object((library, self.words)))
            self.worker = library.get_pointer_to_function("fastfc.pool.worker")
            self.words[WAITING + LOCK] = new_lock()
            self.slot[0] = library.get_pointer_to_function("fastfc.pool.launch")

    def grow(self, n_workers):
        """Load the launcher and have at least so many workers, or as many as the system gives."""
        if self.n_workers >= n_workers:
            return
        self.load()
        with self.lock:
            while self.n_workers < min(n_workers, MAX_WORKERS):
                line = WORKERS + self.n_workers * LINE
                self.words[line + LOCK] = self.words[line + LOCK] or new_lock()
                thread = start_thread(self.worker, line)
                if thread in (-1, NO_THREAD):
                    break
                self.words[line + THREAD] = thread
                self.n_workers += 1
                self.words[N_WORKERS] = self.n_workers

    def forget(self):
        """In a forked child, which has none of its parent's threads."""
        self.lock, self.n_workers = threading.Lock(), 0
        self.words[[OWNED, TICKET, WAITING, N_WORKERS]] = 0  # nor any of the job that one of them launched
        self.words[LOCK::LINE] = 0
        if self.slot[0]:
            self.words[WAITING + LOCK] = new_lock()


def new_lock():
    """A lock of Python's, taken: what waits for it sleeps until somebody releases it."""
    allocate, acquire = ctypes.pythonapi.PyThread_allocate_lock, ctypes.pythonapi.PyThread_acquire_lock
    allocate.restype, acquire.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int]
    lock = allocate()
    if not lock:
        raise MemoryError("fastfc: no memory left for a lock of a worker thread")
    acquire(lock, 1)
    return lock


NO_THREAD = ctypes.c_ulong(-1).value


def start_thread(function, argument):
    """Start a thread that runs a native function; Python knows nothing of it. NO_THREAD if there can be none."""
    start = ctypes.pythonapi.PyThread_start_new_thread
    start.restype, start.argtypes = ctypes.c_ulong, [ctypes.c_void_p, ctypes.c_void_p]
    return start(function, argument)


pool = Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.forget)


@intrinsic
def parallel(typingctx, body, arguments, n_ranges):
    """body(*arguments, index, n_ranges) for each index < n_ranges, on several threads; the greatest of the statuses.

    `body` is a helper that returns an int64, OK or another status. It becomes a function of its own next to the
    caller, which finds the arguments on the caller's stack.
    """
    inner = typingctx.resolve_function_type(body, (*arguments, types.int64, types.int64), {})
    signature = types.int64(body, arguments, types.int64)

    def codegen(context, builder, signature, values):
        context_value = values[1]
        place = cgutils.alloca_once(builder, context_value.type)
        builder.store(context_value, place)
        kind = context.call_conv.get_function_type(TASK.return_type, TASK.args)
        name = builder.module.get_unique_name(f"{builder.function.name}.range")
        task = ir.Function(builder.module, kind, name)
        task.linkage = "internal"
        inside = ir.IRBuilder(task.append_basic_block("entry"))
        result, _, data, index, count = task.args
        given = inside.load(inside.bitcast(data, place.type))
        call = context.get_function(body, inner)
        context.add_linking_libs(getattr(call, "libs", ()))
        found = call(inside, [*cgutils.unpack_tuple(inside, given, len(arguments)), index, count])
        inside.store(found, result)
        inside.ret(ir.Constant(kind.return_type, 0))
        address = builder.ptrtoint(task, I64)
        launched = [address, builder.bitcast(place, I8.as_pointer()), values[2]]
        missing = RuntimeError, ("fastfc: the launcher of threads is not loaded",)
        return call_through_slot(context, builder, f"fastfc.{pool.name}", LAUNCH, launched, missing)

    return signature, codegen
