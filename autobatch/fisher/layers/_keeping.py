"""Which torch functions leave every sample where it is. A function that is not known here loses the batch."""

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
    "celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid log_sigmoid mish prelu relu6"
    " rrelu selu silu softplus softshrink softsign tanhshrink threshold _threshold dropout alpha_dropout"
    " feature_dropout feature_alpha_dropout native_dropout bernoulli"
)
_BROADCASTING = (
    "add addcdiv addcmul arctan2 atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor"
    " complex copysign div divide eq float_power floor_divide fmax fmin fmod ge greater greater_equal gt heaviside"
    " hypot isclose ldexp le lerp less less_equal logaddexp logaddexp2 logical_and logical_or logical_xor lt"
    " masked_fill maximum minimum mul multiply ne nextafter not_equal polar pow remainder rsub sub subtract"
    " true_divide where xlogy bucketize searchsorted"
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

# The batch is dimension 0, and what mixes is behind it.
_IN_FRONT = (
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d"
    " adaptive_max_pool3d affine_grid avg_pool1d avg_pool2d avg_pool3d batch_norm channel_shuffle col2im fold"
    " fractional_max_pool2d fractional_max_pool3d grid_sample group_norm im2col instance_norm interpolate"
    " lp_pool1d lp_pool2d lp_pool3d local_response_norm max_pool1d max_pool2d max_pool3d max_unpool1d max_unpool2d"
    " max_unpool3d native_channel_shuffle pixel_shuffle pixel_unshuffle upsample upsample_bilinear"
    " upsample_nearest max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices"
    " adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices"
    " fractional_max_pool2d_with_indices fractional_max_pool3d_with_indices dropout1d dropout2d dropout3d"
    " feature_dropout_ lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"
)
BATCH_IN_FRONT = frozenset(_IN_FRONT.split())

# Feature dimensions come last, samples anywhere before them: (name, how many features there are at most).
FEATURES_LAST = {
    **dict.fromkeys(("bilinear", "one_hot", "view_as_real", "view_as_complex", "rms_norm", "layer_norm"), 1),
    **dict.fromkeys(("pad", "tril", "triu", "tril_", "triu_", "diag_embed"), 0),
}
