"""Analysis of the parameter space without the matrix: what a probe's passes say of each layer."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch._errors import ConfigError, MeasureError, near_names
from autobatch._ranges import check_kind
from autobatch.analysis._distance import distance
from autobatch.analysis._information import FisherInformation, LayerInformation
from autobatch.analysis._spectra import BlockSpectrum
from autobatch.fisher import FisherProbe, Jacobian, factors_of
from autobatch.fisher.gram._gram import summed_blocks
from autobatch.optim._moments import Layer, layers_of
from autobatch.optim._settings import check_shaped

APPROXIMATIONS = ("none", "kfac")
MOST_SAMPLES = 4096
"""Samples of an exact analysis: each layer's spectrum is that of a matrix of their size."""

_COLUMNS = 1 << 14
_PAIR = 2


def fisher_information(
    model: nn.Module,
    data: tuple[Any, Tensor] | Iterable[tuple[Any, Tensor]],
    loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
    *,
    approximation: Literal["none", "kfac"] = "none",
) -> FisherInformation:
    """Analyse the Fisher matrix of a network, layer by layer, for choosing what to freeze or to prune.

    F is the empirical Fisher matrix, the mean over samples of g gᵀ, where g is the gradient of a sample's loss. Neither
    it nor a layer's block is ever formed: a block has the eigenvalues of the samples' inner products, made of those of
    layers' inputs and output gradients; traces and diagonals come from these, too. The idea is that of Kaul and Lall,
    "Projective Fisher Information for Natural Gradient Descent" (2023); which figures they take is not known to us.

        information = fisher_information(model, loader)
        print(information)
        information.plot()

    The model is analysed in evaluation mode; its weights, gradients, statistics and modes are left as they were.

    Args:
        model: the network, without wrappers; parameters with ``requires_grad`` are analysed.
        data: batches (inputs, targets), such as a loader, or one such pair. The model is called with the inputs;
            tensors are brought to its device.
        loss: gives the mean loss of a batch from the model's outputs and the targets. For the Fisher matrix of the
            model's own distribution give targets that are drawn from it.
        approximation: ``"none"``: everything is exact, and the data, 4,096 samples at most, go through the model as one
            batch. ``"kfac"``: any number of batches, one at a time; traces and what comes from the diagonal are
            exact, and spectra are those of K-FAC's Kronecker products of linear layers and convolutions.

    Returns:
        The table of layers.

    Raises:
        ConfigError: no data, batches that are no pairs, too many for an exact analysis, a loss that is no mean, or
            nothing that is trained.
        MeasureError: a layer cannot be measured, which is named, or its gradients are not finite.
    """
    check_kind(model, (nn.Module,), "model")
    if approximation not in APPROXIMATIONS:
        raise ConfigError(f"approximation={approximation!r}: {near_names(str(approximation), APPROXIMATIONS)}")
    check_shaped(model, "model")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("model: none of its parameters is trained, so there is nothing to analyse")
    analysis = _Analysis(model, kfac=approximation == "kfac")
    batches = _pairs(data)
    with _left_alone(model):
        for inputs, targets in batches if analysis.kfac else [_joined(batches)]:
            analysis.add(inputs, targets, loss)
    if not analysis.samples:
        raise ConfigError("data: no batch in it")
    return FisherInformation(tuple(analysis.layers()), analysis.samples, approximation)


class _Analysis:
    """Adds batches up.

    Args:
        model: the network.
        kfac: whether spectra are those of Kronecker factors; else those of the only batch.
    """

    def __init__(self, model: nn.Module, *, kfac: bool) -> None:
        self.kfac = kfac
        self.samples = 0
        self._model = model
        self._parameters = {name: own for name, own in model.named_parameters() if own.requires_grad}
        self._modules: dict[str, list[str]] = {}
        for name in self._parameters:
            self._modules.setdefault(name.rpartition(".")[0], []).append(name)
        self._diagonals: dict[str, Tensor] = {}
        self._traces: dict[str, float] = {}
        self._grams: dict[str, Tensor] = {}
        self._factors: dict[str, Layer] = {}
        self._first: dict[str, list[Jacobian]] = {}
        self._off: dict[str, float] = {}
        if kfac:
            self._factors = layers_of(model, [{"params": list(self._parameters.values())}])

    def add(self, inputs: Any, targets: Tensor, loss: Callable[[Any, Tensor], Tensor]) -> None:
        """Take a batch through the model."""
        device = next(iter(self._parameters.values())).device
        targets = targets.to(device)
        inputs = inputs.to(device) if isinstance(inputs, Tensor) else inputs
        probe = FisherProbe(self._model, loss_reduction="sum", by_module=True)
        probe.taker = self._take
        self._model.zero_grad()
        with probe:
            outputs = self._model(inputs)
            mean = loss(outputs, targets)
            if not isinstance(mean, Tensor) or not mean.requires_grad:
                raise ConfigError(f"loss: expected a tensor that depends on the model's parameters, got {mean!r}")
            if mean.ndim:
                raise ConfigError(f"loss: expected the mean over a batch, a number, got shape {tuple(mean.shape)}")
            if not bool(torch.isfinite(mean)):
                raise MeasureError(f"the loss of a batch is {mean.item()}: there is no Fisher matrix")
            (mean * len(targets)).backward()  # type: ignore[no-untyped-call]
        if not self.samples and isinstance(outputs, Tensor):
            _check_mean(loss, outputs.detach(), targets)
        for name, parameter in self._parameters.items():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                raise MeasureError(f"parameter {name!r}: its gradient is not finite")
        measured = probe.measurement().by_module()
        for module, gram in measured.items():
            if len(gram) != len(targets):
                raise ConfigError(f"data: the model was called with {len(gram)} samples and {len(targets)} targets")
            self._traces[module] = self._traces.get(module, 0.0) + float(gram.trace())
        if not self.kfac:
            self._grams = measured
        elif not self.samples:
            self._off = {
                module: distance(layer, self._first[layer.name], gram)
                for module, gram in measured.items()
                if (layer := self._layer(module)) is not None
            }
            self._first = {}
        self.samples += len(targets)

    def _take(self, name: str, uses: list[Jacobian]) -> None:
        squares = _squares(uses)
        self._diagonals[name] = self._diagonals[name] + squares if name in self._diagonals else squares
        if name in self._factors:
            self._factors[name].take(uses)
            if not self.samples:
                self._first[name] = uses

    def layers(self) -> Iterator[LayerInformation]:
        """Yield the rows of the table."""
        total = sum(self._traces.values())
        for module, names in self._modules.items():
            trace = self._traces.get(module, 0.0)
            count = sum(self._parameters[name].numel() for name in names)
            spectrum = self._spectrum(module)
            yield LayerInformation(
                layer=module,
                kind=type(self._model.get_submodule(module)).__name__,
                parameters=count,
                trace=trace / self.samples,
                share=trace / total if total else 0.0,
                sensitivity=trace / self.samples / count,
                removal=sum(map(self._removal, names)),
                largest=spectrum.largest,
                effective_rank=spectrum.effective_rank,
                off=self._off.get(module, math.nan) if self.kfac else 0.0,
                leading=spectrum.leading,
            )

    def _spectrum(self, module: str) -> BlockSpectrum:
        if self.kfac:
            layer = self._layer(module)
            return BlockSpectrum.unknown() if layer is None else BlockSpectrum.of_factors(layer)
        nothing = torch.zeros(self.samples, self.samples)
        return BlockSpectrum.of_samples(self._grams.get(module, nothing))

    def _layer(self, module: str) -> Layer | None:
        """Return the moments of a module all of whose parameters are one weight and its bias, where they are known."""
        names = self._modules[module]
        layer = next((self._factors[name] for name in names if name in self._factors), None)
        known = layer is not None and layer.taken and layer.samples > 0 and len(layer.parameters) == len(names)
        return layer if known else None

    def _removal(self, name: str) -> float:
        if name not in self._diagonals:
            return 0.0
        values = self._parameters[name].detach()
        values = torch.view_as_real(values) if values.is_complex() else values
        return 0.5 * float(self._diagonals[name] @ values.double().square().flatten()) / self.samples


@torch.no_grad()
def _squares(uses: list[Jacobian]) -> Tensor:
    """Return the sum over samples of each element's squared gradient, in the parameter's order, float64."""
    factors = factors_of(uses[0]) if len(uses) == 1 else None
    if factors is not None and factors[0].shape[1] == 1:
        left, right = (factor[:, 0].double().square() for factor in factors)
        return (left.mT @ right).flatten()
    return torch.cat([block.double().square().sum(0) for block in summed_blocks(uses, _COLUMNS)])


def _check_mean(loss: Callable[[Any, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> None:
    """Refuse a loss that grows with the batch: with every sample twice a mean is the same, a sum twice as large."""
    once, twice = float(loss(outputs, targets)), float(loss(torch.cat([outputs] * 2), torch.cat([targets] * 2)))
    if abs(twice - once) > 0.5 * abs(once):
        raise ConfigError(
            f"loss: expected the mean over a batch; with every sample twice it is {twice:.4g} instead of {once:.4g}, "
            "as a sum is"
        )


def _pairs(data: Any) -> Iterator[tuple[Any, Tensor]]:
    one = isinstance(data, tuple | list) and len(data) == _PAIR and isinstance(data[1], Tensor)
    if not one and not isinstance(data, Iterable):
        raise ConfigError(f"data: expected batches (inputs, targets), or one, got {type(data).__name__}")
    for batch in [data] if one else data:
        if not (isinstance(batch, tuple | list) and len(batch) == _PAIR and isinstance(batch[1], Tensor)):
            raise ConfigError(f"data: expected batches (inputs, targets), got one of type {type(batch).__name__}")
        if len(batch[1]):
            yield batch[0], batch[1]


def _joined(batches: Iterator[tuple[Any, Tensor]]) -> tuple[Any, Tensor]:
    """Return all batches as one."""
    inputs, targets = [], []
    for each, own in batches:
        inputs.append(each)
        targets.append(own)
        if sum(map(len, targets)) > MOST_SAMPLES:
            raise ConfigError(
                f'data: more than {MOST_SAMPLES} samples, each against each; give fewer, or approximation="kfac"'
            )
    if not targets:
        raise ConfigError("data: no batch in it")
    if len(targets) > 1 and not all(isinstance(each, Tensor) for each in inputs):
        raise ConfigError('data: inputs that are no tensors cannot be joined: give one batch, or approximation="kfac"')
    return inputs[0] if len(inputs) == 1 else torch.cat(inputs), torch.cat(targets)


@contextmanager
def _left_alone(model: nn.Module) -> Iterator[None]:
    """Have a model in evaluation mode without gradients, and then as it was."""
    modes = {module: module.training for module in model.modules()}
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient
