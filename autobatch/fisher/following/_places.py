"""Where each function puts the samples of each of its arguments: the list of what is known to keep them in place.

A rule sees one argument that carries the batch at a dimension, and says at which dimension of an output it then lies.
Where several arguments carry it, all must come to lie at the same place (``Through``). A function that is
not in ``PLACES`` loses the batch, and so does an argument for which its rule returns None.
"""

from torch import Tensor

from autobatch.fisher.following._indexing import INDEXING
from autobatch.fisher.following._keeping import (
    BATCH_IN_FRONT,
    BATCH_IN_FRONT_OF_SECOND,
    ELEMENT_BY_ELEMENT,
    FIRST_ONLY,
    ITEM_LOSSES,
    ROW_LOSSES,
    VECTOR_LOSSES,
)
from autobatch.fisher.following._move import WHOLE, Move, Place, Rule, aligned_right, in_slots, keeps_samples, untouched
from autobatch.fisher.following._products import PRODUCTS
from autobatch.fisher.following._shapes import SHAPES


def _in_front(move: Move) -> int | None:
    slots = (0, 1) if move.name in BATCH_IN_FRONT_OF_SECOND else (0,)
    return 0 if move.slot in slots and move.dim == 0 and move.source.ndim > 1 else None


def _before_features(features: int, *slots: int) -> Rule:
    """Return the rule of functions that touch only the last dimensions."""

    def rule(move: Move) -> int | None:
        return move.dim if move.slot in slots and move.dim < move.source.ndim - features else None

    return rule


def _normalised(move: Move) -> int | None:
    shape = move.argument(1, "normalized_shape")
    features = 1 if isinstance(shape, int) else len(shape)
    return move.dim if move.slot == 0 and move.dim < move.source.ndim - features else None


def _padded(move: Move) -> int | None:
    widths = list(move.argument(1, "pad"))
    from_right = move.source.ndim - 1 - move.dim
    return None if move.slot or any(widths[2 * from_right : 2 * from_right + 2]) else move.dim


def _alone(move: Move) -> int | None:
    return move.dim if len(move.args) == 1 and not move.kwargs else None


def _sorted_into(values: int) -> Rule:
    """Return the rule of functions that look values up in sorted boundaries."""

    def rule(move: Move) -> int | None:
        return move.dim if move.slot == values and move.output.shape == move.source.shape else None

    return rule


def _searched(move: Move) -> int | None:
    boundaries = move.args[0]
    return move.dim if move.slot == 1 and isinstance(boundaries, Tensor) and boundaries.ndim == 1 else None


def _chosen(move: Move) -> int | None:
    alone = len(move.args) + len(move.kwargs) == 1  # where(condition): the indices of what is true
    return None if alone else aligned_right(move)


def _normalised_along(move: Move) -> int | None:
    dims = move.dims(1, "dim")
    if dims is None:  # torch.nn.functional.softmax(x) chooses by the number of dimensions
        dims = [0 if move.source.ndim in {0, 1, 3} else 1]
    return None if move.slot or move.dim in dims else move.dim


def _quantile(move: Move) -> int | None:
    dims = move.dims(2, "dim")
    if move.slot or not dims or move.dim in dims or isinstance(move.argument(1, "q"), Tensor):
        return None
    return move.dim if move.output.ndim == move.source.ndim else move.dim - sum(dim < move.dim for dim in dims)


def _slices_scaled(move: Move) -> int | None:
    # renorm: each slice along the dimension is scaled by its own norm.
    return move.dim if move.dims(2, "dim") == [move.dim] else None


def _reduced(position: int) -> Rule:
    def rule(move: Move) -> Place:
        if move.name in {"max", "min"} and isinstance(move.argument(1, "other"), Tensor):
            return aligned_right(move)
        if move.slot:
            return None
        dims = move.dims(position, "dim")
        if not dims or move.dim in dims:
            return WHOLE
        return move.dim if move.output.ndim == move.source.ndim else move.dim - sum(dim < move.dim for dim in dims)

    return rule


def _loss(move: Move) -> Place:
    # Losses of items, of rows of classes, of vectors: without a reduction, each sample keeps its own.
    ndim = max(tensor.ndim for tensor in move.followed)
    if move.slot < 0:
        return None
    if move.name in ROW_LOSSES and move.slot == 0 and (move.dim == 1 or move.source.ndim == 1):
        return None
    if move.name in VECTOR_LOSSES and (ndim == 1 or move.dim == ndim - 1):
        return None
    if move.output.ndim == 0:
        return WHOLE
    if move.name in ITEM_LOSSES:
        return aligned_right(move)
    return move.dim - int(move.dim > 1 and move.slot == 0)


def _timed_loss(move: Move) -> Place:
    # ctc_loss: (T, B, C) log-probabilities, and rows of targets and lengths.
    expected = 1 if move.slot == 0 and move.source.ndim == 3 else 0
    if move.slot < 0 or move.dim != expected:
        return None
    return 0 if move.output.ndim else WHOLE


def _convolved(spatial: int, *, transposed: bool) -> Rule:
    def rule(move: Move) -> Place:
        if move.slot == 0 and move.source.ndim == spatial + 2 and move.dim == 0:
            return 0
        # Filters of each sample's own: an image of (B * channels), in groups of one sample each.
        if (move.slot, move.dim) not in {(0, 1), (1, 0), (2, 0)} or move.output.ndim != spatial + 2:
            return None
        by_groups = move.outer == 1 and int(move.argument(6, "groups", 1)) % move.batch == 0
        of_outputs = move.slot == 2 or (move.slot == 1 and not transposed)
        return (1, move.outer) if of_outputs or by_groups else None

    return rule


def _normalised_batch(move: Move) -> int | None:
    # Channels are normalised one by one: in dimension 1 samples do not meet.
    return 1 if move.slot == 0 and move.dim == 1 else _in_front(move)


def _triangular(move: Move) -> int | None:
    # solve_triangular(A, B): the rows of B are mixed, or with left=False its columns.
    last = move.source.ndim - 1
    mixed = {0: {last - 1, last}, 1: {last - 1 if move.kwargs.get("left", True) else last}}.get(move.slot)
    return None if mixed is None or move.dim in mixed else aligned_right(move)


def _framed(move: Move) -> int | None:
    # stft of (B, length), istft of (B, frequencies, frames).
    dimensions = 2 if move.name == "stft" else 3
    return 0 if move.slot == 0 and move.dim == 0 and move.source.ndim == dimensions else None


def _deformed(move: Move) -> int | None:
    # (input, weight, offset, mask, bias)
    return 0 if move.slot in {0, 2, 3} and move.dim == 0 else None


def _unfolded(move: Move) -> Place:
    # Tensor.unfold along one dimension adds one; F.unfold makes columns of images (B, C, H, W).
    if move.output.ndim < move.source.ndim:
        return _in_front(move)
    return untouched(1, "dimension")(move)


def _recurrent(move: Move) -> Place:
    # (input, states, weights, has_biases, layers, dropout, train, bidirectional, batch_first) -> (output, h_n, c_n):
    # the batch is dimension 1 of the states, whether or not it is the first of the input. Packed sequences lose it.
    plain = len(move.args) == 9 and isinstance(move.args[2], (tuple, list)) and isinstance(move.args[3], bool)
    expected = 1
    if plain and move.slot == 0:
        expected = 0 if move.args[8] else 1
    if not plain or move.slot not in {0, 1} or move.source.ndim != 3 or move.dim != expected:
        return None
    return 1 if move.index else (0 if move.args[8] else 1)


def _compared(position: int) -> Rule:
    # cosine_similarity: broadcast, then reduced along one dimension.
    def rule(move: Move) -> int | None:
        ndim = max(tensor.ndim for tensor in move.tensors)
        reduced = int(move.argument(position, "dim", 1)) % ndim
        dim = move.dim + ndim - move.source.ndim
        return None if dim == reduced else dim - (dim > reduced)

    return rule


def _compared_last(move: Move) -> int | None:
    ndim = max(tensor.ndim for tensor in move.tensors)
    dim = move.dim + ndim - move.source.ndim
    return dim if dim < ndim - 1 else None


def _attention(move: Move) -> int | None:
    # The last two dimensions are positions and features: attention mixes positions.
    return aligned_right(move) if move.dim < move.source.ndim - 2 else None


_MATRICES = (
    "inverse linalg_inv det linalg_det slogdet linalg_slogdet logdet cholesky linalg_cholesky matrix_exp"
    " linalg_matrix_exp linalg_svd linalg_svdvals svd linalg_qr qr linalg_eigh linalg_eigvalsh linalg_pinv pinverse"
    " linalg_matrix_power matrix_power logm linalg_eig linalg_eigvals"
)
_REDUCED = (
    "sum mean prod amax amin max min var std logsumexp argmax argmin any all median nansum nanmean count_nonzero"
    " var_mean std_mean mode nanmedian special_logsumexp aminmax"
)
_FAKE_QUANTIZED = (
    "fake_quantize_per_tensor_affine fake_quantize_per_channel_affine fused_moving_avg_obs_fake_quant"
    " _fake_quantize_learnable_per_tensor_affine _fake_quantize_learnable_per_channel_affine"
)
_BY_RULE: tuple[tuple[str, Rule], ...] = (
    (_FAKE_QUANTIZED, keeps_samples),
    ("tril triu tril_ triu_ one_hot view_as_real prelu", keeps_samples),
    (_MATRICES, _before_features(2, 0)),
    (_REDUCED, _reduced(1)),
    ("norm vector_norm linalg_vector_norm linalg_norm", _reduced(2)),
    ("layer_norm rms_norm native_layer_norm", _normalised),
    ("softmax log_softmax softmin _softmax _log_softmax special_softmax special_log_softmax", _normalised_along),
    ("quantile nanquantile kthvalue", _quantile),
    ("multinomial", _before_features(1, 0)),
    ("ctc_loss", _timed_loss),
    ("cumsum cumprod cummax cummin logcumsumexp index_fill fft_fftshift fft_ifftshift narrow", untouched(1)),
    ("diff fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft", untouched(2, default=-1)),
    ("fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2", untouched(2, default=(-2, -1))),
    ("fft_fftn fft_ifftn fft_rfftn fft_irfftn", untouched(2)),
    ("sort argsort glu", untouched(1, default=-1)),
    ("chunk split tensor_split", untouched(2, default=0)),
    ("gumbel_softmax", untouched(4, default=-1)),
    ("topk", untouched(2, default=-1)),
    ("normalize", untouched(2, default=1)),
    ("flip", untouched(1, "dims")),
    ("roll", untouched(2, "dims")),
    ("linalg_cross", untouched(2, default=-1, slots=(0, 1))),
    ("cross", untouched(2, slots=(0, 1))),
    ("lstm gru rnn_tanh rnn_relu", _recurrent),
    ("copy_", in_slots(aligned_right, 1)),  # base.copy_(source): base lies as the source does
    ("bilinear", _before_features(1, 0, 1)),
    ("view_as_complex", _before_features(1, 0)),
    ("bucketize", _sorted_into(0)),
    ("searchsorted", _searched),
    ("cosine_similarity", _compared(2)),
    ("pairwise_distance", _compared_last),
    ("diag_embed", _alone),
    ("pad", _padded),
    ("renorm", _slices_scaled),
    ("scaled_dot_product_attention", _attention),
    ("unfold", _unfolded),
    ("batch_norm", _normalised_batch),
    ("bincount", lambda move: WHOLE),  # but see ``Through``
    ("stft istft", _framed),
    ("deform_conv2d", _deformed),
    ("linalg_solve_triangular", _triangular),
    ("where", _chosen),
)
PLACES: dict[str, Rule] = (
    dict.fromkeys(ELEMENT_BY_ELEMENT, aligned_right)
    | dict.fromkeys(FIRST_ONLY, keeps_samples)
    | dict.fromkeys(BATCH_IN_FRONT | BATCH_IN_FRONT_OF_SECOND, _in_front)
    | dict.fromkeys(ITEM_LOSSES | ROW_LOSSES | VECTOR_LOSSES, _loss)
    | {
        f"conv{kind}{spatial}d": _convolved(spatial, transposed=bool(kind))
        for kind in ("", "_transpose")
        for spatial in (1, 2, 3)
    }
    | {name: rule for names, rule in _BY_RULE for name in names.split()}
    | SHAPES
    | PRODUCTS
    | INDEXING
)
