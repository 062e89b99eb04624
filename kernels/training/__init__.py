"""The kernels that train: the objective, a step, an epoch, and full-batch optimizers."""
