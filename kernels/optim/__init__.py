"""The kernels of optimizers and of learning-rate schedules."""
