import ast
import importlib
import inspect
import itertools
import json
import pkgutil
import re
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "asv_bench"


@pytest.fixture(params=["", "1"], ids=["usual", "long"])
def benchmarks(request, monkeypatch):
    """Names of the benchmarks as asv has them, by file: module.Class.method(value, value)."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("FASTFC_LONG", request.param)
    for name in ("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "FASTFC_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # set by the package, and restored by this
    found = {}
    package = importlib.import_module("benchmarks")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "common":
            found[module.name] = [*names(importlib.import_module(f"benchmarks.{module.name}"))]
    yield found
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


def names(module):
    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__]
    for kind in kinds:
        params = getattr(kind, "params", ())
        axes = params if params and isinstance(params[0], list | tuple) else [params] if params else []
        for method, _ in inspect.getmembers(kind, inspect.isfunction):
            if method.startswith(("time_", "track_", "peakmem_")):
                for values in itertools.product(*axes):
                    said = f"({', '.join(map(repr, values))})" if values else ""
                    yield f"{module.__name__.partition('.')[2]}.{kind.__name__}.{method}{said}"


def test_the_name_of_a_file_matches_its_benchmarks_alone(benchmarks):
    """`asv run --bench forward` ran norms and threads too."""
    every = [(kind, name) for kind, rows in benchmarks.items() for name in rows]
    assert len(every) > 100
    for word in benchmarks:
        assert {kind for kind, name in every if word in name} <= {word}


def test_what_asv_runs_is_short_unless_more_is_asked_for(benchmarks, request):
    n = sum(map(len, benchmarks.values()))
    assert n < 160 if request.node.callspec.params["benchmarks"] == "" else n > 500


def test_a_sample_is_the_least_of_several_blocks_of_calls(benchmarks):
    """asv took a single call, which other programs made any multiple of as long."""
    common = importlib.import_module("benchmarks.common")

    class Slept(common.Timed):
        n_calls = 0

        def time_call(self, seconds):
            self.n_calls += 1
            end = time.process_time() + seconds * (3 if 6 <= self.n_calls <= 9 else 1)
            while time.process_time() < end:
                pass

    slept = Slept()
    before = slept.timer()
    slept.time_call(0.002)
    assert 0.0015 < slept.timer() - before < 0.0025
    assert slept.n_calls > Slept.BLOCKS


def test_what_needs_a_package_that_is_missing_is_not_measured(benchmarks):
    """asv takes any other exception for a failure."""
    common = importlib.import_module("benchmarks.common")
    assert common.needs("numpy").__name__ == "numpy"
    with pytest.raises(NotImplementedError, match="no_such_package is not installed"):
        common.needs("no_such_package")


def test_only_setups_find_out_what_is_missing():
    """Elsewhere asv takes NotImplementedError for a failure, too: ranks failed where MPI was missing."""
    for file in sorted((FOLDER / "benchmarks").glob("*.py")):
        for method in [each for each in ast.walk(ast.parse(file.read_text())) if isinstance(each, ast.FunctionDef)]:
            if method.name.startswith(("time_", "track_", "peakmem_")):
                names = {each.id for each in ast.walk(method) if isinstance(each, ast.Name)}
                assert not names & {"needs", "NotImplementedError"}, f"{file.name}: {method.name}"


def test_every_time_is_the_least_of_blocks_or_of_processes(benchmarks):
    """asv's own clock counts what other programs take."""
    common = importlib.import_module("benchmarks.common")
    for kind in benchmarks:
        for _, each in inspect.getmembers(importlib.import_module(f"benchmarks.{kind}"), inspect.isclass):
            if any(name.startswith("time_") and call for name, call in inspect.getmembers(each)):
                assert issubclass(each, common.Clock)
                assert each.repeat * each.rounds >= 7, "asv takes no difference between fewer samples for one"


def test_asv_saves_the_results_of_a_benchmark_when_it_has_ended(monkeypatch, tmp_path):
    """asv saved none before all had ended: Ctrl-C after half an hour lost all."""
    pytest.importorskip("asv")
    config, plugins, results, runner = (
        importlib.import_module(f"asv.{name}") for name in ("config", "plugin_manager", "results", "runner")
    )
    for name in ("load_data", "add_result"):
        monkeypatch.setattr(results.Results, name, getattr(results.Results, name))  # restored after the test
    (plugin,) = config.Config.load(str(FOLDER / "asv.conf.json")).plugins
    monkeypatch.chdir(FOLDER)
    plugins.plugin_manager.import_plugin(plugin)

    def new():
        return results.Results({"machine": "here"}, {}, "0" * 40, 0, "3.11", "env", {})

    benchmark = {"name": "kind.time", "version": "1", "params": []}
    took = runner.BenchmarkResult([0.5], [[0.5]], [1], 0, "", None)
    unsaved, saved = new(), new()
    unsaved.add_result(benchmark, took)
    saved.load_data(str(tmp_path))
    saved.add_result(benchmark, took)
    (file,) = tmp_path.rglob("*.json")
    assert results.Results.load(str(file)).get_result_value("kind.time", []) == [0.5]


def test_the_history_has_the_ratios_of_ten_commits():
    contents = [json.loads(file.read_text()) for file in (FOLDER / "results" / "zen5").glob("*-virtualenv-*.json")]
    assert len(contents) == 10
    for content in contents:
        assert sorted(content["results"]) == [
            f"ratios.Ratios.track_{name}" for name in ("grad_bias", "grad_input", "grad_weight", "output")
        ]
        for row in content["results"].values():
            ratios = row[content["result_columns"].index("result")]
            assert len(ratios) == 4 and all(0.01 < ratio < 1.5 for ratio in ratios), content["commit_hash"]
    (latest,) = re.findall(r"library up to ([0-9a-f]{7}),", (FOLDER / "README.md").read_text())
    assert latest in {content["commit_hash"][:7] for content in contents}
