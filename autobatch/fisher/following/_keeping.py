"""Which torch functions leave every sample where it is. A function that is not known here loses the batch."""

from collections.abc import Callable
from typing import Any

import torch

from autobatch._errors import MeasureError

KEEPING: set[Any] = set()
# Custom autograd functions of torch itself that hand tensors through.
HANDING_ON = frozenset({
    "_DDPSink",
    "BackwardHookFunction",
    "RegisterPostBackwardFunction",
    "SyncBatchNorm",
    "CheckpointFunction",
})


def register_keeping(function: Callable[..., Any] | type[torch.autograd.Function]) -> None:
    """Say that a function of your own leaves samples where they are: the batch lies in its outputs as in its input.

    A probe follows the batch through every torch function that it knows. What it does not know, such as a custom
    ``torch.autograd.Function`` or an operator of an extension, may reorder or mix samples, and a layer behind it is
    refused until this says that it does not. Parameters *inside* such a function need ``register_gram_rule`` instead.

        class StraightThrough(torch.autograd.Function): ...

        autobatch.register_keeping(StraightThrough)

    Args:
        function: a subclass of ``torch.autograd.Function``, each of whose outputs lies as the input of the same shape
            does, or else has the batch as dimension 0; or an operator (``torch.ops.mine.op``), whose outputs lie as its
            first argument does.

    Raises:
        MeasureError: where it is neither.
    """
    if not callable(function):
        raise MeasureError(f"register_keeping: expected a torch.autograd.Function or an operator, got {function!r}")
    KEEPING.add(function)
    overloads = getattr(function, "overloads", None)  # a packet of torch.ops
    if callable(overloads):
        KEEPING.update(getattr(function, name) for name in overloads())
    if (own := getattr(function, "_opoverload", None)) is not None:  # of torch.library.custom_op
        KEEPING.add(own)


# Element by element, with broadcasting. Those that work in place end with an underscore more.
_UNARY = (
    "abs absolute acos acosh angle arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh bitwise_not"
    " ceil clamp clamp_max clamp_min clip conj conj_physical cos cosh deg2rad digamma erf erfc erfinv exp exp2"
    " expm1 fix floor frac i0 isfinite isinf isnan isneginf isposinf isreal lgamma log log10 log1p log2"
    " logical_not logit mvlgamma nan_to_num neg negative polygamma positive rad2deg reciprocal relu resolve_conj"
    " resolve_neg round rsqrt sgn sigmoid sign signbit sin sinc sinh sqrt square tan tanh trunc imag real"
    " special_digamma special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2"
    " special_expit special_expm1 special_gammaln special_i0 special_i0e special_i1 special_i1e special_log1p"
    " special_log_ndtr special_logit special_ndtr special_ndtri special_psi special_round special_sinc"
    " special_polygamma special_xlog1py special_xlogy special_zeta"
)
_ACTIVATIONS = (
    "celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid log_sigmoid mish relu6"
    " rrelu selu silu softplus softshrink softsign tanhshrink threshold _threshold dropout alpha_dropout"
    " feature_dropout feature_alpha_dropout native_dropout bernoulli"
)
_BROADCASTING = (
    "add addcdiv addcmul arctan2 atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor"
    " complex copysign div divide eq float_power floor_divide fmax fmin fmod ge greater greater_equal gt heaviside"
    " hypot isclose ldexp le lerp less less_equal logaddexp logaddexp2 logical_and logical_or logical_xor lt"
    " masked_fill maximum minimum mul multiply ne nextafter not_equal polar pow remainder rsub sub subtract"
    " true_divide xlogy"
)
_OPERATORS = (
    "add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv div rdiv idiv floordiv rfloordiv"
    " ifloordiv mod rmod imod pow rpow ipow neg pos abs invert and rand iand or ror ior xor rxor ixor eq ne lt le"
    " gt ge lshift rshift"
)
_COPIES = (
    "bfloat16 bool byte char clone contiguous cpu cuda data detach double fill float half int long requires_grad"
    " short to type type_as zero retain_grad pin_memory chalf cfloat cdouble"
)
_POINTWISE = " ".join((_UNARY, _ACTIVATIONS, _BROADCASTING, _COPIES)).split()
ELEMENT_BY_ELEMENT = frozenset([
    *_POINTWISE,
    *(f"{name}_" for name in _POINTWISE),
    *(f"__{name}__" for name in _OPERATORS.split()),
])

# Functions that take nothing but dtype and device from their tensor, and those that do so from all but the first.
FRESH = frozenset({
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "zeros_like", "ones_like", "empty_like"),
    *("full_like", "rand_like", "randn_like", "randint_like"),
})
FIRST_ONLY = frozenset({"to", "type_as", "view_as", "reshape_as", "expand_as"})

# The batch is dimension 0 of the first argument, or of the first two, and what mixes is behind it.
_IN_FRONT = (
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d"
    " adaptive_max_pool3d affine_grid avg_pool1d avg_pool2d avg_pool3d batch_norm channel_shuffle col2im fold"
    " fractional_max_pool2d fractional_max_pool3d group_norm im2col instance_norm interpolate"
    " lp_pool1d lp_pool2d lp_pool3d local_response_norm max_pool1d max_pool2d max_pool3d"
    " native_channel_shuffle pixel_shuffle pixel_unshuffle upsample upsample_bilinear"
    " upsample_nearest max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices"
    " adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices"
    " fractional_max_pool2d_with_indices fractional_max_pool3d_with_indices dropout1d dropout2d dropout3d"
    " feature_dropout_"
)
BATCH_IN_FRONT = frozenset(_IN_FRONT.split())
BATCH_IN_FRONT_OF_SECOND = frozenset({
    *("grid_sample", "max_unpool1d", "max_unpool2d", "max_unpool3d"),
    *("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
})

# Losses of single items; of rows of classes, which are dimension 1; and of vectors, which are the last dimension.
ITEM_LOSSES = frozenset({
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "kl_div", "poisson_nll_loss"),
    *("binary_cross_entropy_with_logits", "gaussian_nll_loss", "margin_ranking_loss", "soft_margin_loss"),
    "hinge_embedding_loss",
})
ROW_LOSSES = frozenset({"cross_entropy", "nll_loss", "cross_entropy_loss", "nll_loss_nd"})
VECTOR_LOSSES = frozenset({
    *("cosine_embedding_loss", "triplet_margin_loss", "multi_margin_loss", "multilabel_margin_loss"),
    "multilabel_soft_margin_loss",
})

# Functions whose values depend on the whole batch, though every row stays a sample's own.
COUPLING = frozenset({"fused_moving_avg_obs_fake_quant"})

# What takes a sum over samples to a sum over samples.
LINEAR = frozenset({
    *("sum", "mean", "add", "sub", "neg", "mul", "div", "add_", "sub_", "mul_", "div_", "__add__", "__radd__"),
    *("__iadd__", "__sub__", "__rsub__", "__isub__", "__mul__", "__rmul__", "__imul__", "__truediv__", "true_divide"),
    *(
        "__itruediv__",
        "__neg__",
        "subtract",
        "multiply",
        "divide",
        "negative",
        "rsub",
        "to",
        "float",
        "double",
        "clone",
    ),
    *("contiguous", "squeeze", "unsqueeze", "view", "reshape", "flatten", "stack", "cat", "__getitem__", "cpu", "cuda"),
    *("type_as", "half", "bfloat16", "expand", "select", "unbind"),
})
