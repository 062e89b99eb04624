from .common import Kernel


class WeightGrad(Kernel):
    def time_overwrite(self, *_):
        self.kernels.dense_weight_grad(self.x, self.grad_output, self.weight_grad)

    def time_add(self, *_):
        self.kernels.dense_add_weight_grad(self.x, self.grad_output, self.weight_grad)
