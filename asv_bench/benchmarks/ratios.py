"""How many times as long as fastfc the best other library takes, of those installed: NumPy, PyTorch, JAX."""

from fastfc.compare import TARGETS, contestants, measure, pin
from fastfc.peers import installed


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
