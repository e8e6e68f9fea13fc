"""What is known of each function of torch: one entry says where samples lie, and how rows come about.

``known`` finds the entry of a function. What ``register_keeping`` and ``register_gram_rule`` add is in the same table.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch._errors import MeasureError
from autobatch.fisher.following import _by_index as by_index
from autobatch.fisher.following import _indexing as indexing
from autobatch.fisher.following import _places as places
from autobatch.fisher.following import _products as products
from autobatch.fisher.following import _shapes as shapes
from autobatch.fisher.following._move import WHOLE, Known, aligned_right, in_slots, keeps_samples, untouched
from autobatch.fisher.layers import _offsets as offsets
from autobatch.fisher.layers import _rules as rules
from autobatch.fisher.layers import recurrent
from autobatch.fisher.layers._elementwise import attention_bias, by_element, expanded, prelu
from autobatch.fisher.layers._functions import name_of
from autobatch.fisher.layers._modules import GramRule

UNKNOWN = Known()
"""The entry of a function of which nothing is known."""
# Custom autograd functions of torch itself that hand tensors through.
_HANDING_ON = frozenset({
    *("_DDPSink", "BackwardHookFunction", "RegisterPostBackwardFunction", "SyncBatchNorm", "CheckpointFunction")
})


def known(function: Callable[..., Any]) -> Known:
    """Return what is known of a function as a ``TorchFunctionMode`` sees it; an empty entry where nothing is."""
    return _KNOWN.get(function) or _KNOWN.get(name_of(function), UNKNOWN)


def is_unknown(name: str) -> bool:
    """Whether torch has a function of a name, of which nothing is known."""
    return name not in _KNOWN and any(callable(getattr(home, name, None)) for home in (torch, F, Tensor))


def gram_rule_of(module: nn.Module) -> GramRule | None:
    """Return the rule of a module that ``register_gram_rule`` was told of, or None."""
    own = _KNOWN.get(type(module))
    return None if own is None else own.rows


def hands_on(kind: type) -> bool:
    """Whether a custom autograd function is known to leave samples in place."""
    return kind in _KNOWN or (kind.__module__.startswith("torch.") and kind.__name__ in _HANDING_ON)


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
    own = [function]
    overloads = getattr(function, "overloads", None)  # a packet of torch.ops
    if callable(overloads):
        own += [getattr(function, name) for name in overloads()]
    if (overload := getattr(function, "_opoverload", None)) is not None:  # of torch.library.custom_op
        own.append(overload)
    for each in own:
        _KNOWN[each] = replace(known(each), layout=keeps_samples)


def register_gram_rule(module_type: type[nn.Module], rule: GramRule) -> None:
    """Say how the parameters of a kind of module get their per-sample gradients.

    It is needed only for what a probe cannot see: parameters used by a custom ``torch.autograd.Function``, an extension
    or a scripted module. All else is measured without. The module must be called once a pass, take the batch as
    dimension 0, and return one tensor with the batch as dimension 0. A later rule for the same type replaces the
    earlier one; subclasses need their own:

        def scale(module, inputs, output_gradient):
            (x,) = inputs                                # (B, C)
            return {"weight": x * output_gradient}       # (B, C) for a weight of shape (C,)

        autobatch.register_gram_rule(MyScale, scale)

    Args:
        module_type: the class, matched exactly.
        rule: called in the backward pass with the module, its positional inputs (detached) and the gradient of its
            output; returns for every trainable parameter, by its name in the module, the gradients of each sample,
            of shape (B, *parameter's shape), such that their sum is the parameter's gradient.

    Raises:
        MeasureError: where the type is not a module class.
    """
    if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)):
        raise MeasureError(f"register_gram_rule: expected a subclass of torch.nn.Module, got {module_type!r}")
    _KNOWN[module_type] = Known(rows=rule)


def _in_place(names: str) -> str:
    return " ".join(f"{name}_" for name in names.split())


# Element by element, with broadcasting; those that work in place end with an underscore more.
_ONE_BY_ONE = (
    "abs absolute acos acosh angle arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh bitwise_not"
    " ceil clamp clamp_max clamp_min clip conj conj_physical cos cosh deg2rad digamma erf erfc erfinv exp exp2"
    " expm1 fix floor frac i0 isfinite isinf isnan isneginf isposinf isreal lgamma log log10 log1p log2"
    " logical_not logit mvlgamma nan_to_num polygamma positive rad2deg reciprocal relu resolve_conj"
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
_COMPARED = (
    "arctan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor complex eq floor_divide fmod ge"
    " greater greater_equal gt heaviside isclose ldexp le less less_equal logaddexp2 logical_and logical_or logical_xor"
    " lt masked_fill ne nextafter not_equal polar remainder"
)
_COPIED = "bool byte char data detach fill int long requires_grad short type zero retain_grad pin_memory chalf cfloat"
_BROADCAST = "addcdiv addcmul atan2 copysign float_power fmax fmin hypot lerp logaddexp maximum minimum pow xlogy"
_OPERATORS = (
    "__floordiv__ __rfloordiv__ __ifloordiv__ __mod__ __rmod__ __imod__ __ipow__ __pos__ __abs__ __invert__ __and__"
    " __rand__ __iand__ __or__ __ror__ __ior__ __xor__ __rxor__ __ixor__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__"
    " __lshift__ __rshift__"
)
# Random numbers in place of what is there.
_DRAWN = "uniform_ normal_ random_ exponential_ log_normal_ geometric_ cauchy_"
_POINTWISE = f"{_ONE_BY_ONE} {_ACTIVATIONS} {_COMPARED} {_COPIED} cdouble"
# The batch is dimension 0 of the first argument, and what mixes is behind it.
_IN_FRONT = (
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d"
    " adaptive_max_pool3d affine_grid avg_pool1d avg_pool2d avg_pool3d channel_shuffle col2im fold"
    " fractional_max_pool2d fractional_max_pool3d im2col interpolate"
    " lp_pool1d lp_pool2d lp_pool3d local_response_norm max_pool1d max_pool2d max_pool3d"
    " native_channel_shuffle pixel_shuffle pixel_unshuffle upsample upsample_bilinear"
    " upsample_nearest max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices"
    " adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices"
    " fractional_max_pool2d_with_indices fractional_max_pool3d_with_indices dropout1d dropout2d dropout3d stft"
)
_MATRICES = (
    "inverse linalg_inv det linalg_det slogdet linalg_slogdet logdet cholesky linalg_cholesky matrix_exp"
    " linalg_matrix_exp linalg_svd linalg_svdvals svd linalg_qr qr linalg_eigh linalg_eigvalsh linalg_pinv pinverse"
    " linalg_matrix_power matrix_power logm linalg_eig linalg_eigvals istft"
)
_REDUCED = (
    "prod amax amin max min var std logsumexp argmax argmin any all median nanmean count_nonzero"
    " var_mean std_mean mode nanmedian special_logsumexp aminmax"
)
_SOFTMAX = "softmax log_softmax softmin _softmax _log_softmax special_softmax special_log_softmax"
_FAKE_QUANTIZED = (
    "fake_quantize_per_tensor_affine fake_quantize_per_channel_affine"
    " _fake_quantize_learnable_per_tensor_affine _fake_quantize_learnable_per_channel_affine"
)
_ITEM_LOSSES = (
    "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy kl_div poisson_nll_loss"
    " binary_cross_entropy_with_logits gaussian_nll_loss margin_ranking_loss soft_margin_loss hinge_embedding_loss"
)
_VECTOR_LOSSES = (
    "cosine_embedding_loss triplet_margin_loss multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss"
)


def _picks(layout: Any = None, **more: Any) -> Known:
    """Return the entry of a function that only picks, moves or repeats elements of its first argument."""
    return Known(layout, by_index=by_index.picked, heeds="elements", **more)


def _puts(layout: Any = None, **more: Any) -> Known:
    """Return the entry of a function that puts rows of a source where an index says: (base, dim, index, source)."""
    return Known(layout, by_index=by_index.scattered, heeds="rows", **more)


def _convolved(n: int, *, transposed: bool) -> Known:
    """Return the entry of a convolution in n dimensions."""
    rows = rules.convolution(n, transposed=transposed)
    return Known(places.convolved(n, transposed=transposed), rows, tapped=True)


def _alone(_: Any) -> int:
    """Say that samples are the only thing that is summed over."""
    return 0


_MATMUL = products.written("ai,ib->ab", "ai,i->a", "i,ib->b")
_ADDED = products.written("ab,ai,ib->ab")
_PAIRED = {"input1": 0, "input2": 1, "anchor": 0, "positive": 1, "negative": 2, "var": 2}
_LOOKED_UP = Known(indexing.looked_up)
_BAGGED = Known(indexing.bagged, by_index=by_index.bagged)
_INSTANCE_NORM = Known(places.in_front(0))
# Names, or a function where others of its name take other arguments.
_TABLE: tuple[tuple[Any, Known], ...] = (
    # Element by element.
    (f"{_POINTWISE} {_in_place(_POINTWISE)} {_OPERATORS} {_in_place(_BROADCAST)} {_DRAWN}", Known(aligned_right)),
    (f"{_BROADCAST} __pow__ __rpow__ __rtruediv__ __div__ __rdiv__", Known(aligned_right, by_element())),
    ("add sub subtract rsub __add__ __radd__ __sub__ __rsub__", Known(aligned_right, by_element(), additive="term")),
    ("add_ __iadd__", Known(aligned_right, by_element(torch.add), additive="term")),
    ("sub_ subtract_ __isub__", Known(aligned_right, by_element(torch.sub), additive="term")),
    ("mul multiply __mul__ __rmul__", Known(aligned_right, by_element(), additive="product")),
    ("mul_ multiply_ __imul__", Known(aligned_right, by_element(torch.mul), additive="product")),
    ("div divide true_divide __truediv__", Known(aligned_right, by_element(), additive="quotient")),
    ("div_ divide_ true_divide_ __itruediv__", Known(aligned_right, by_element(torch.div), additive="quotient")),
    ("__idiv__", Known(aligned_right, by_element(torch.div))),
    ("neg negative __neg__ neg_ negative_", Known(aligned_right, additive="linear")),
    ("bfloat16 clone contiguous cpu cuda double float half", Known(aligned_right, additive="linear")),
    ("to type_as as_tensor asarray", Known(keeps_samples, heeds="first", additive="linear")),
    ("where", Known(places.chosen, by_element(), by_index=by_index.where_true)),
    ("prelu", Known(keeps_samples, by_element(prelu, channels=True))),
    (f"{_FAKE_QUANTIZED} tril triu tril_ triu_ one_hot view_as_real bucketize isin", Known(keeps_samples)),
    ("fused_moving_avg_obs_fake_quant", Known(keeps_samples, couples=True)),
    ("nonzero argwhere", Known(by_index=by_index.where_true)),
    ("copy_", Known(in_slots(aligned_right, 1), heeds="source")),  # base.copy_(source): base lies as the source does
    # What takes nothing but shape, dtype and device from its tensors.
    ("new_zeros new_ones new_empty new_full new_tensor zeros_like ones_like empty_like full_like", Known(heeds="none")),
    ("rand_like randn_like randint_like zeros ones empty rand randn", Known(heeds="none")),
    # Products.
    ("linear", Known(products.written("i,oi,o->o", "i,i,->"), rules.linear, claims=True, tapped=True)),
    ("matmul mv __matmul__", Known(_MATMUL, rules.matmul, claims=True, sums=_alone)),
    ("mm", Known(_MATMUL, rules.matmul, claims=True, slots={"mat2": 1})),
    ("__rmatmul__", Known(products.written("ib,ai->ab", "i,ai->a", "ib,i->b"), rules.matmul, claims=True, sums=_alone)),
    ("dot vdot", Known(lambda _: WHOLE, sums=_alone)),
    ("addmm", Known(_ADDED, rules.addmm, claims=True, slots={"mat1": 1, "mat2": 2})),
    ("bmm", Known(_MATMUL, slots={"mat2": 1})),
    ("addmm_", Known(_ADDED, slots={"mat1": 1, "mat2": 2})),
    ("baddbmm baddbmm_", Known(_ADDED, slots={"batch1": 1, "batch2": 2})),
    ("bilinear", Known(places.before_features(1, 0, 1), rules.bilinear)),
    ("grouped_mm _grouped_mm", Known(products.grouped, offsets.grouped_mm, heeds="floats")),
    ("einsum", Known(products.einsum, rules.einsum, sums=products.einsum_letter)),
    ("outer ger", Known(products.written("i,j->ij"))),
    ("inner", Known(products.inner, sums=_alone)),
    ("cdist", Known(products.written("pm,rm->pr"))),
    ("linalg_multi_dot", Known(products.chained)),
    ("linalg_solve", Known(products.solved)),
    ("tensordot", Known(products.contracted)),
    ("scaled_dot_product_attention", Known(places.attention, attention_bias, random=True)),
    (
        "lstm gru rnn_tanh rnn_relu",
        Known(places.recurrent, recurrent.layers, by_index=by_index.unpacked, heeds="floats", random=True),
    ),
    ("pad_sequence", Known(by_index=by_index.padded)),
    (
        "_nested_tensor_from_tensor_list _nested_from_padded_tensor _nested_tensor_from_mask nested_to_padded_tensor",
        Known(places.nested),
    ),
    ("_pad_packed_sequence", Known(by_index=by_index.unpacked, heeds="elements")),
    *((f"conv{n}d", _convolved(n, transposed=False)) for n in (1, 2, 3)),
    *((f"conv_transpose{n}d", _convolved(n, transposed=True)) for n in (1, 2, 3)),
    ("torch.ops.torchvision.deform_conv2d", Known(places.in_front(0, 2, 3))),
    # Normalisations.
    ("batch_norm", Known(places.normalised_batch, rules.batch_norm, tapped=True)),
    ("group_norm", Known(places.in_front(0), rules.group_norm, tapped=True)),
    ("instance_norm", _INSTANCE_NORM),
    (F.instance_norm, replace(_INSTANCE_NORM, rows=rules.instance_norm, tapped=True)),
    ("layer_norm", Known(places.normalised, rules.layer_norm, tapped=True)),
    ("rms_norm", Known(places.normalised, rules.rms_norm, tapped=True)),
    ("native_layer_norm", Known(places.normalised)),
    # The batch in front.
    (_IN_FRONT, Known(places.in_front(0))),
    ("grid_sample max_unpool1d max_unpool2d max_unpool3d", Known(places.in_front(0, 1))),
    ("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell", Known(places.in_front(0, 1), recurrent.cells)),
    ("unfold", Known(places.unfolded)),
    # Along some dimensions.
    ("sum mean", Known(places.reduced(1), additive="linear", sums=keeps_samples)),
    ("nansum", Known(places.reduced(1), sums=keeps_samples)),
    (_REDUCED, Known(places.reduced(1))),
    ("norm vector_norm linalg_vector_norm linalg_norm", Known(places.reduced(2))),
    (_SOFTMAX, Known(places.normalised_along)),
    ("quantile nanquantile kthvalue", Known(places.quantile)),
    (
        "cumsum cumprod cumsum_ cumprod_ cummax cummin logcumsumexp index_fill fft_fftshift fft_ifftshift",
        Known(untouched(1)),
    ),
    ("diff fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft", Known(untouched(2, default=-1))),
    ("fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2", Known(untouched(2, default=(-2, -1)))),
    ("fft_fftn fft_ifftn fft_rfftn fft_irfftn", Known(untouched(2))),
    ("glu", Known(untouched(1, default=-1))),
    ("sort argsort", Known(untouched(1, default=-1), by_index=by_index.ordered)),
    ("gumbel_softmax", Known(untouched(4, default=-1))),
    ("topk", Known(untouched(2, default=-1), by_index=by_index.ordered)),
    ("normalize", Known(untouched(2, default=1))),
    ("linalg_cross", Known(untouched(2, default=-1, slots=(0, 1)))),
    ("cross", Known(untouched(2, slots=(0, 1)))),
    ("renorm", Known(places.slices_scaled)),
    ("pad", Known(places.padded)),
    ("cosine_similarity", Known(places.compared(1))),
    ("linalg_vecdot", Known(places.compared(-1))),
    ("pairwise_distance", Known(places.compared(-1, position=5))),
    (_MATRICES, Known(places.before_features(2, 0))),
    ("linalg_solve_triangular", Known(products.triangular)),
    ("multinomial view_as_complex", Known(places.before_features(1, 0))),
    ("searchsorted", Known(places.searched)),
    ("bincount", Known(lambda move: WHOLE, by_index=by_index.counted)),
    # Losses.
    (_ITEM_LOSSES, Known(places.loss("items"), sums=places.among_losses("items"), slots=_PAIRED)),
    (
        "cross_entropy nll_loss cross_entropy_loss nll_loss_nd",
        Known(places.loss("rows"), sums=places.among_losses("rows")),
    ),
    (_VECTOR_LOSSES, Known(places.loss("vectors"), sums=places.among_losses("vectors"), slots=_PAIRED)),
    ("ctc_loss", Known(places.timed_loss, sums=_alone)),
    # Shapes.
    ("reshape view flatten", _picks(shapes.reshaped, additive="linear")),
    ("unflatten ravel", _picks(shapes.reshaped)),
    ("view_as reshape_as", Known(shapes.reshaped, by_index=by_index.picked, heeds="first")),
    ("transpose swapaxes swapdims permute T t mT adjoint", _picks(shapes.viewed, transposes=True)),
    ("transpose_ swapaxes_ swapdims_ t_", Known(in_slots(shapes.swapped, 0))),
    ("unsqueeze_", Known(in_slots(shapes.inserted, 0))),
    ("as_strided", Known(by_index=by_index.strided)),
    ("movedim moveaxis diagonal mH H", _picks(shapes.viewed)),
    ("squeeze unsqueeze", _picks(shapes.viewed, additive="linear")),
    ("stack", _picks(shapes.stacked, additive="linear")),
    ("expand", _picks(shapes.viewed, rows=expanded, claims=True, additive="linear")),
    ("broadcast_to", _picks(shapes.viewed, rows=expanded, claims=True)),
    ("expand_as", Known(in_slots(aligned_right, 0), expanded, claims=True, by_index=by_index.picked, heeds="first")),
    ("broadcast_tensors", Known(aligned_right, heeds="each")),
    ("repeat tile", _picks(shapes.repeated, rows=expanded, claims=True)),
    ("repeat_interleave", _picks(shapes.repeated_each)),
    ("cat", _picks(shapes.concatenated, additive="linear")),
    ("concat concatenate", _picks(shapes.concatenated)),
    ("hstack fliplr", _picks(shapes.across(1))),
    ("column_stack", Known(shapes.beside(1))),
    ("dstack", Known(shapes.beside(2))),
    ("hsplit", _picks(shapes.across(1))),
    ("atleast_1d atleast_2d atleast_3d", _picks(shapes.viewed)),
    ("flipud", _picks(shapes.across(0))),
    ("masked_scatter masked_scatter_", Known(by_index=by_index.filled)),
    ("vstack masked_select _pack_padded_sequence", _picks()),
    ("flip", _picks(untouched(1, "dims"))),
    ("roll", _picks(untouched(2, "dims"))),
    ("rot90", _picks(untouched(2, "dims", (0, 1)))),
    ("diag_embed", Known(places.alone)),
    ("select unbind", _picks(shapes.selected, additive="linear")),
    ("narrow", _picks(untouched(1))),
    (
        "chunk split tensor_split split_with_sizes unsafe_chunk unsafe_split unsafe_split_with_sizes",
        _picks(untouched(2, default=0)),
    ),
    # Indices.
    (
        "__getitem__",
        Known(indexing.indexed, rules.table_lookup, by_index=by_index.indexed, heeds="elements", additive="linear"),
    ),
    ("index_select", _picks(indexing.index_selected, rows=rules.index_select, slots={"index": 2})),
    ("gather", _picks(indexing.gathered, slots={"index": 2})),
    ("take", _picks(in_slots(lambda move: move.dim, 1))),
    ("take_along_dim", _picks(untouched(2, slots=(0, 1)), slots={"indices": 1})),
    ("embedding", _LOOKED_UP),
    (F.embedding, replace(_LOOKED_UP, rows=rules.embedding, claims=True)),
    ("embedding_bag", _BAGGED),
    (torch.embedding_bag, replace(_BAGGED, rows=offsets.embedding_bag)),
    (
        "scatter scatter_ scatter_add scatter_add_ scatter_reduce",
        _puts(untouched(1, slots=(0, 2, 3)), slots={"index": 2, "src": 3}),
    ),
    ("index_add index_add_ index_copy index_copy_", _puts(untouched(1, slots=(0, 3)), slots={"index": 2, "source": 3})),
    ("scatter_reduce_ index_reduce index_reduce_", _puts()),
)


def _entries() -> Iterator[tuple[Any, Known]]:
    """Yield every function with what is known of it.

    Of a function of torch that only has the name of one in the table it is known where samples lie, but not what its
    weights' rows are: these are made from the arguments by position.
    """
    for key, entry in _TABLE:
        if not isinstance(key, str):
            yield key, entry
            continue
        for name in key.split():
            yield name, replace(entry, rows=None, claims=False, tapped=False)
            homes = {id(own): own for home in (torch, F, Tensor) if (own := getattr(home, name, None)) is not None}
            yield from ((own, entry) for own in homes.values() if callable(own))


_KNOWN: dict[Any, Known] = dict(_entries())
