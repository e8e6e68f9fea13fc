"""What a step's passes say of a layer: the second moments of its inputs and of its output gradients."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autobatch.fisher import Jacobian, factors_of, is_turned
from autobatch.optim._steps import working_dtype

_SAME = 1e-2
"""How far apart the same gradients may be that are summed up in another order, in half precision too."""


class Moment:
    """A second moment XᵀX of vectors that come in over some passes; few vectors are kept as they are.

    Args:
        width: d, elements of a vector.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._rows: list[Tensor] = []
        self._sum: Tensor | None = None
        self.count = 0

    def add(self, rows: Tensor) -> None:
        """Add vectors (n, d)."""
        self.count += len(rows)
        self._rows.append(rows)
        if self._sum is not None or self.count >= self._width:
            total = sum((own.mT @ own for own in self._rows), self._sum if self._sum is not None else 0)
            assert isinstance(total, Tensor)
            self._sum, self._rows = total, []

    def narrowed(self) -> "Moment":
        """Return that of the vectors without their last element."""
        narrow = Moment(self._width - 1)
        narrow.count = self.count
        narrow._rows = [rows[:, :-1] for rows in self._rows]
        narrow._sum = None if self._sum is None else self._sum[:-1, :-1]
        return narrow

    def rows(self) -> Tensor | None:
        """Return all vectors, (n, d), where they are fewer than d."""
        return torch.cat(self._rows) if self._sum is None else None

    def times(self, matrix: Tensor) -> Tensor:
        """Return XᵀX times a matrix (d, k)."""
        rows = self.rows()
        return self.total() @ matrix if rows is None else rows.mT @ (rows @ matrix)

    def total(self) -> Tensor:
        """Return XᵀX, (d, d)."""
        rows = self.rows()
        total = self._sum if rows is None else rows.mT @ rows
        assert total is not None
        return total

    def trace(self) -> Tensor:
        """Return the trace of XᵀX."""
        rows = self.rows()
        return self.total().trace() if rows is None else rows.square().sum()


@dataclass
class Layer:
    """A weight (out, in) that multiplies inputs, and the bias that joins it as a column.

    Attributes:
        name: the weight's dotted name.
        weight: the parameter.
        bias: the parameter, or None.
        inputs: of all positions of all samples, with a 1 for the bias.
        gradients: of the same positions' outputs, of the loss as it was.
        turned: whether the weight is (in, out): ``inputs`` are then the outputs' gradients, and ``gradients`` inputs.
        samples: B, over all passes.
        taken: whether a use of the weight was seen that is a product of these.
        apart: whether the bias has been seen not to join the weight.
        compared: whether ``product`` is no longer wanted.
        product: the gradient of weight and bias that they make, of the loss as it was; None where nothing came in.
        shift: the bias's own gradients, of the same passes' samples.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    inputs: Moment = field(init=False)
    gradients: Moment = field(init=False)
    samples: int = 0
    taken: bool = True
    apart: bool = field(default=False, init=False)
    turned: bool = field(default=False, init=False)
    compared: bool = field(default=False, init=False)
    product: Tensor | None = field(default=None, init=False)
    shift: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.clear()

    @property
    def parameters(self) -> list[Tensor]:
        """The weight and, where there is one, the bias."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def clear(self) -> None:
        """Forget what passes said."""
        out = self.weight.shape[0]
        self.inputs = Moment(self.weight.numel() // out + (self.bias is not None))
        self.gradients = Moment(out)
        self.samples = 0
        self.product = self.shift = None

    def take_bias(self, uses: list[Jacobian]) -> None:
        """Add one pass's per-sample gradients of the bias, until they have been compared."""
        if not self.compared:
            rows = torch.stack([use.block(0, use.rows) for use in uses]).sum(0)
            self.shift = rows if self.shift is None else torch.cat([self.shift, rows])

    def part(self) -> None:
        """Part with a bias that is not added to the weight's product, as where a module's own forward scales that."""
        if self.bias is None or self.product is None or self.shift is None:
            return
        # Under a norm layer the samples' gradients cancel: what is left of both sums is round-off.
        if (self.product[:, -1] - self.shift.sum(0)).norm() > _SAME * self.shift.norm():
            self.bias, self.apart = None, True
            self.inputs, self.product = self.inputs.narrowed(), self.product[:, :-1]

    def take(self, uses: list[Jacobian]) -> None:
        """Add one pass's per-sample gradients of the weight."""
        turned = [is_turned(use) for use in uses] + [self.turned] * (self.samples > 0)
        if any(turned) != all(
            turned
        ):  # as of a decoder that is its encoder turned: of what is added up half is neither
            self.taken = False
            return
        self.turned = any(turned)
        if (len(uses) > 1 or self.turned) and self.bias is not None:  # not every use need have added the bias
            self.bias, self.apart = None, True
            self.clear()
        passed = self.samples
        for use in uses:
            factors = factors_of(use)
            if factors is None:
                self.taken = False
                return
            gradients, inputs = (factor.flatten(0, 1) for factor in factors)
            if self.bias is not None:
                inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
            self.inputs.add(inputs)
            self.gradients.add(gradients)
            if not self.compared:
                product = gradients.mT @ inputs
                self.product = product if self.product is None else self.product + product
            self.samples = passed + len(factors[0])

    def joined(self, values: list[Tensor]) -> Tensor:
        """Return something of weight and bias as one matrix, (out, in) or (out, in + 1), float32 at least."""
        joined = torch.cat([value.reshape(len(value), -1) for value in values], dim=1)
        return joined.to(working_dtype(joined))

    def parted(self, matrix: Tensor) -> list[Tensor]:
        """Return a matrix as what is the weight's and what the bias's, in their shapes."""
        sizes = [parameter.numel() // len(parameter) for parameter in self.parameters]
        parts = torch.split(matrix, sizes, dim=1)
        return [part.reshape(own.shape).to(own.dtype) for part, own in zip(parts, self.parameters, strict=True)]


def layers_of(model: nn.Module, groups: list[dict[str, object]]) -> dict[str, Layer]:
    """Return the weights of a model, with the biases that join them, by name.

    Args:
        model: the network.
        groups: an optimizer's; a bias joins its weight where both are in one group and the module is a linear layer or
            a convolution.

    Returns:
        Every parameter of two dimensions or more that the optimizer trains.
    """
    group_of = {id(own): number for number, group in enumerate(groups) for own in group["params"]}  # type: ignore[attr-defined]
    layers: dict[str, Layer] = {}
    known: set[int] = set()
    for path, module in model.named_modules():
        for name, weight in module.named_parameters(path, recurse=False):
            if weight.ndim < 2 or not weight.requires_grad or id(weight) not in group_of or id(weight) in known:
                continue
            known.add(id(weight))
            bias = module.bias if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) else None
            joined = bias is not None and bias.requires_grad and group_of.get(id(bias)) == group_of[id(weight)]
            layers[name] = Layer(name, weight, bias if joined else None)
    return layers
