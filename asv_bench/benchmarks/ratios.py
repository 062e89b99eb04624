"""How many times as long as fastfc the best other library takes, of those installed.

For networks the other is the one that `fastfc compare --networks` names; NaN where it is not installed.
"""

from fastfc.benchmark.compare import TARGETS, TASKS, contestants, measure, measure_network, pin
from fastfc.benchmark.worker import NETWORK_PACKAGES, installed


class Ratios:
    params = tuple(map(str, TARGETS))
    param_names = ("shape",)
    unit = "times as fast"
    timeout = 600

    def setup_cache(self):
        pin(1)
        with contestants(1, installed()) as workers:
            return {
                (line.kernel, str(shape)): line.ratio
                for shape in TARGETS
                for line in measure(shape, "float32", 1, workers, rounds=5)
            }

    setup_cache.timeout = 600

    def track_ratio_forward(self, ratios, shape):
        return ratios["forward", shape]

    def track_ratio_weight_grad(self, ratios, shape):
        return ratios["weight_grad", shape]

    def track_ratio_input_grad(self, ratios, shape):
        return ratios["input_grad", shape]

    def track_ratio_bias_grad(self, ratios, shape):
        return ratios["bias_grad", shape]


def name(task):
    return f"{task.kind} {task.network} x {task.batch}"


class NetworkRatios:
    params = tuple(map(name, TASKS))
    param_names = ("task",)
    unit = "times as fast"
    timeout = 600

    def setup_cache(self):
        pin(1)
        libraries = installed(NETWORK_PACKAGES)
        with contestants(1, libraries, module="fastfc.benchmark.networks", alone=False) as workers:
            measured = {name(task): measure_network(task, "float32", 1, workers, rounds=3) for task in TASKS}
        return {task: float("nan") if row.ratio is None else row.ratio for task, row in measured.items()}

    setup_cache.timeout = 600

    def track_ratio(self, ratios, task):
        return ratios[task]
