"""The public names of version 0.1.0 are still there."""

import importlib

import pytest

import fastfc as fc

NAMES = {
    "fastfc": """
        Accuracy Adagrad Adam AdamW BCELoss BCEWithLogitsLoss BatchNorm1d CELU Callback Constant CosineAnnealingLR
        CosineAnnealingWarmRestarts CrossEntropyLoss CustomLoss DivergenceWarning Dropout ELU EarlyStopping
        Elementwise Embedding ExponentialLR F1 GELU GaussianNLLLoss Graph Hardsigmoid Hardswish Hardtanh He History
        HuberLoss Identity Input KLDivLoss KaimingNormal KaimingUniform L1Loss LBFGS LayerNorm LeCunNormal
        LeCunUniform LeakyReLU LevenbergMarquardt Linear LinearWarmup Lion LogSigmoid LogSoftmax MLP MSELoss Mish
        MultiLoss MultiMarginLoss MultiStepLR NAdam NLLLoss Normal OneCycleLR Orthogonal PoissonNLLLoss QuantileLoss
        RMSNorm RMSprop ReLU ReLU6 ReduceLROnPlateau SELU SGD Sequential SiLU Sigmoid SmoothL1Loss Softmax Softplus
        Softsign Standardize StepLR Tanh Tied TopK TruncatedNormal Uniform Xavier XavierNormal XavierUniform Zeros
        check_gradients concatenate from_onnx from_sklearn from_torch kernels load load_breast_cancer load_checkpoint
        load_diabetes load_digits load_fashion_mnist load_state_dict load_wine metrics nopython numerical_gradient
        reference
    """,
    "fastfc.kernels": """
        activation_backward activation_forward bce_loss bce_with_logits_loss cross_entropy_loss dense_add_bias_grad
        dense_add_weight_grad dense_bias_grad dense_forward dense_input_grad dense_weight_grad erf exp expm1
        gaussian_nll_loss huber_loss kl_div_loss l1_loss log log1p mse_loss multi_margin_loss nll_loss
        poisson_nll_loss quantile_loss sgd smooth_l1_loss tanh
    """,
    "fastfc.metrics": """
        Accuracy F1 TopK accuracy f1 mae r2 rmse roc_auc top_k_accuracy
    """,
    "fastfc.reference": """
        activation_backward activation_forward adagrad adam anneal average batch_norm bce_loss bce_with_logits_loss
        clip_grad_norm clip_grad_value cross_entropy_loss dense_add_bias_grad dense_add_weight_grad dense_bias_grad
        dense_forward dense_input_grad dense_weight_grad density dropout_mask elu elu_derivative embedding
        embedding_weight_grad erf exp expm1 gaussian_nll_loss gelu_slope hardsigmoid huber_loss kl_div_loss l1_loss
        layer_norm lbfgs_direction levenberg_marquardt lion log log1p log_softmax max_norm mean_of mish_gate mse_loss
        multi_margin_loss nadam nll_loss norm_backward normal normalised one_cycle penalty_grad poisson_nll_loss
        quantile_loss relu rms_norm rmsprop sgd sigmoid smooth_l1_loss softmax softplus standardize tanh train_step
        warm_restarts
    """,
    "fastfc.sklearn": """
        MLPClassifier MLPRegressor from_sklearn to_sklearn
    """,
}


@pytest.mark.parametrize("module", NAMES)
def test_names_of_0_1_0_are_there(module):
    there = importlib.import_module(module)
    assert [name for name in NAMES[module].split() if not hasattr(there, name)] == []


@pytest.mark.parametrize("module", [fc, fc.kernels, fc.metrics], ids=lambda module: module.__name__)
def test_completion_offers_public_names_alone(module):
    """Imports such as Any and Path were among them."""
    assert [name for name in dir(module) if not name.startswith("_")] == sorted(module.__all__)
    assert {"__name__", "__doc__", "__file__"} <= set(dir(module))


def test_completion_of_objects_offers_what_they_have():
    net = fc.MLP([2, 3, 1])
    for thing in (net, net[0], fc.MSELoss(), fc.Adam(), fc.History()):
        names = [name for name in dir(thing) if not name.startswith("_")]
        assert names and all(hasattr(thing, name) for name in names)
