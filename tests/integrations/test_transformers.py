"""``AutoBatchTrainerCallback``: the loop of Transformers' Trainer, unchanged but for what the controller decides."""

import runpy
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")

from transformers import (  # noqa: E402
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from autobatch import (  # noqa: E402
    AutoBatchController,
    CheckpointError,
    ConfigError,
    FisherProbe,
    integrations,
    scout,
)
from autobatch.control import BatchPlan, LearningRateRule, MeasureAtInterval, NeverMeasure, Rates, permutation  # noqa: E402
from autobatch.integrations import AutoBatchTrainerCallback, transformers_loop  # noqa: E402
from autobatch.policies import Decision, Observation  # noqa: E402
from autobatch.policies._parameters import Stateless  # noqa: E402
from tests.control.loops import Returns  # noqa: E402

SIZE, EPOCHS = 50, 3


class Sizes(Stateless):
    """A policy that follows a list of batch sizes."""

    needs_library = False

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes
        self.seen: list[Observation] = []

    def reset(self, task: object, library: object) -> None:
        self.seen = []

    def decide(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        size = self.sizes[min(observation.epoch, len(self.sizes) - 1)]
        return Decision(size, None, f"period {observation.epoch + 1} has {size}")


class Stopping(Sizes):
    """A policy that ends the training after two periods."""

    def decide(self, observation: Observation) -> Decision:
        return replace(super().decide(observation), stop=observation.epoch >= 2)


class Sentences(Dataset):
    """Tokens and a label, and a note of who was asked for."""

    def __init__(self, size: int = SIZE) -> None:
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(2, 23, (size, 6), generator=generator)
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.asked.append(index)
        return {"input_ids": self.tokens[index], "labels": self.tokens[index].sum() % 3}


class Classifier(nn.Module):
    """Any module will do that takes labels and returns a loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.dropout, self.head = nn.Embedding(23, 8), nn.Dropout(0.1), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.dropout(self.embed(input_ids).tanh().mean(1)))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def bert() -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=23,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=6,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config)


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    return TrainingArguments(**{
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "logging_strategy": "no",
        "save_strategy": "no",
        **options,
    })


def trainer_of(folder: Path, *, kind: type = Trainer, model: nn.Module | None = None, **options: Any) -> Any:
    trainer: Any = kind(
        model if model is not None else Classifier(),
        arguments(folder, **options),
        train_dataset=Sentences(),
        eval_dataset=Sentences(7),
        compute_metrics=accuracy,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def steered(trainer: Any, *sizes: int, **settings: Any) -> AutoBatchTrainerCallback:
    """Add the callback; policies that are asked for sizes get them in turn."""
    settings = {"policy": Sizes(*sizes), "batch_sizes": (4, 8, 16), "measuring": NeverMeasure(), "seed": 5, **settings}
    callback = AutoBatchTrainerCallback(trainer, **settings)
    trainer.add_callback(callback)
    return callback


class Watch(TrainerCallback):
    """Notes the learning rates of the steps, and how many epochs begin."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.epochs = 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        self.epochs += 1

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        self.rates.append(event["optimizer"].param_groups[0]["lr"])


def weights(trainer: Any) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def orders() -> list[int]:
    return [index for epoch in range(EPOCHS) for index in permutation(SIZE, 5, epoch).tolist()]


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, (4, 16, 8)),
        ({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}, (16, 8, 4)),
        ({"dataloader_num_workers": 1}, (16, 4, 8)),
    ],
    ids=["plain", "accumulated", "worker"],
)
def test_every_example_once_an_epoch_whatever_the_sizes(tmp_path: Path, options: dict[str, Any], sizes: Any) -> None:
    trainer = trainer_of(tmp_path, **options)
    callback = steered(trainer, *sizes)
    steps = trainer.train().global_step
    if not options.get("dataloader_num_workers"):
        assert trainer.train_dataset.asked == orders()
    assert callback.controller.finished
    assert callback.controller.examples == EPOCHS * SIZE
    assert steps == callback.controller.steps == sum({4: 13, 8: 6, 16: 3}[size] for size in sizes)
    assert (trainer.state.max_steps, trainer.state.epoch) == (steps, EPOCHS)


@pytest.mark.parametrize("strategy", ["no", "epoch"])
def test_a_decision_that_stops_ends_the_training(tmp_path: Path, strategy: str) -> None:
    trainer = trainer_of(tmp_path, num_train_epochs=6, eval_strategy=strategy)
    callback = steered(trainer, policy=Stopping(4, 16))
    assert trainer.train().global_step == callback.controller.steps == 13 + 3
    assert trainer.state.epoch == callback.controller.epoch == 2
    assert callback.controller.stopped_because == "period 3 has 16"
    assert len(trainer.train_dataset.asked) == 2 * SIZE
    evaluated = [log for log in trainer.state.log_history if "eval_loss" in log]
    assert len(evaluated) == (2 if strategy == "epoch" else 0)


def test_a_decision_within_an_epoch_that_stops_ends_the_training(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, num_train_epochs=6)
    callback = steered(trainer, policy=Stopping(5), batch_sizes=(5, 10), plan=BatchPlan(decide_every=0.2))
    assert trainer.train().global_step == 4
    assert (callback.controller.steps, callback.controller.stopped_because) == (4, "period 3 has 5")


def test_scouts_of_a_trainer(tmp_path: Path) -> None:
    """Each scout is a training of a Trainer of its own; the training starts from the best."""

    def train(controller: AutoBatchController) -> Any:
        torch.manual_seed(controller.seed)
        trainer = trainer_of(tmp_path, num_train_epochs=12)
        trainer.add_callback(AutoBatchTrainerCallback(trainer, controller=controller))
        trainer.train()
        return trainer

    out = tmp_path / "scouts"
    report = scout(train, batch_sizes=(8, 16), learning_rates=(1e-4, 1e-3, 1e-2), out=out, rates="steered")
    assert [(one.examples, one.scout.batch_size) for one in report.trained] == [(SIZE, 16), (SIZE, 16), (SIZE, 8)]
    assert report.winner is min(report.trained, key=lambda one: one.scout.train_losses[0])
    controller = AutoBatchController(policy="beacon-follow", scouts=report, rates="steered")
    assert train(controller).state.epoch == controller.epoch == 8
    assert controller.lr == report.lr


def test_scouts_of_a_trainer_in_one_call(tmp_path: Path) -> None:
    """Copies are trained; Trainer, model and generators are as if nothing had been, and the training goes on."""
    trainer = trainer_of(tmp_path, num_train_epochs=12, gradient_accumulation_steps=2)
    begins = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    torch.manual_seed(7)
    drawn = torch.rand(1)
    torch.manual_seed(7)
    grid = {"batch_sizes": (8, 16), "learning_rates": (1e-4, 1e-3, 1e-2), "out": tmp_path / "scouts"}
    report = scout(transformers_loop(trainer), rates="steered", **grid)
    assert torch.equal(torch.rand(1), drawn)
    assert all(torch.equal(trainer.model.state_dict()[name], value) for name, value in begins.items())
    # As without accumulation, above: what guessing comes to is the loss of the whole first batch.
    assert [(one.examples, one.scout.batch_size) for one in report.trained] == [(SIZE, 16), (SIZE, 16), (SIZE, 8)]
    assert trainer.optimizer is None
    assert trainer.state.global_step == 0
    callback = AutoBatchTrainerCallback(trainer, policy="beacon-follow", scouts=report, rates="steered")
    trainer.add_callback(callback)
    trainer.train()
    assert trainer.state.epoch == 8
    assert callback.controller is not None
    assert callback.controller.lr == report.lr
    with pytest.raises(ConfigError, match="scout before adding it"):
        transformers_loop(trainer)


def test_scouts_that_end_within_an_epoch_are_evaluated_and_begin_no_other(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, num_train_epochs=6, eval_strategy="epoch")
    epochs: list[int] = []

    def train(controller: AutoBatchController) -> None:
        copied = trainer_of(tmp_path, num_train_epochs=6, eval_strategy="epoch")
        copied.add_callback(AutoBatchTrainerCallback(copied, controller=controller))
        copied.add_callback(watch := Watch())
        copied.train()
        epochs.append(watch.epochs)

    grid: dict[str, Any] = {"batch_sizes": (5, 10), "learning_rates": (1e-4, 1e-3, 1e-2), "rates": "steered"}
    plan = BatchPlan(decide_every=0.2)
    report = scout(train, out=tmp_path / "own", plan=plan, **grid)
    assert epochs == [1] * len(report.trained)
    again = scout(transformers_loop(trainer), out=tmp_path / "scouts", plan=plan, **grid)
    for found in (report, again):
        assert all(one.examples < SIZE for one in found.trained)
        assert all(torch.isfinite(torch.tensor(one.scout.scores[-1])) for one in found.trained)


def test_advice_to_stop_stops_nothing(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, num_train_epochs=4)
    callback = steered(trainer, policy=Stopping(4), advise=True)
    assert trainer.train().global_step == 4 * 7
    assert "advice: stop" in callback.controller.decision.limit


def test_the_nominal_size_trains_as_the_trainer_alone_bit_for_bit(tmp_path: Path) -> None:
    class InOrder(Trainer):
        """The Trainer with the controller's order of examples and its rule for the last batch."""

        def get_train_dataloader(self) -> Any:
            class Batches:
                def __iter__(self) -> Iterator[list[int]]:
                    order = permutation(SIZE, 5, epochs.pop(0)).tolist()
                    return iter([*(order[start : start + 10] for start in range(0, SIZE, 10))])

                def __len__(self) -> int:
                    return SIZE // 10

            generator = torch.Generator()
            return torch.utils.data.DataLoader(
                self.train_dataset, batch_sampler=Batches(), collate_fn=self.data_collator, generator=generator
            )

    epochs = [0, 1, 2]
    alone = trainer_of(tmp_path, kind=InOrder, per_device_train_batch_size=10, warmup_steps=4)
    alone.train()
    measured = []
    for measuring in (NeverMeasure(), MeasureAtInterval(1)):
        trainer = trainer_of(tmp_path, per_device_train_batch_size=10, warmup_steps=4)
        callback = steered(trainer, 10, batch_sizes=(10, 25), measuring=measuring)
        trainer.train()
        assert same(weights(trainer), weights(alone))
        measured.append(callback.controller.samples)
    assert measured == [0, EPOCHS * SIZE // 10]


def test_the_gradient_is_that_of_the_mean_over_the_batch(tmp_path: Path) -> None:
    """Whatever its parts are, by accumulation or micro-batches, and whoever divides the loss."""
    found = []
    for options, plan in (
        ({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}, None),
        ({}, None),
        ({}, BatchPlan(micro_batch=3)),
        ({}, BatchPlan(micro_batch="auto", memory_limit=12_000)),
    ):
        for divided in (True, False):
            model = bert()
            model.accepts_loss_kwargs = divided
            trainer = trainer_of(
                tmp_path,
                model=model,
                optim="sgd",
                learning_rate=0.1,
                num_train_epochs=2,
                logging_strategy="epoch",
                **options,
            )
            callback = steered(trainer, 8, 16, plan=plan, measuring=MeasureAtInterval(1))
            trainer.train()
            losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            found.append((
                weights(trainer),
                losses,
                callback.controller.c_bar,
                callback.controller.observation.train_loss,
            ))
    for parameters, losses, c_bar, train_loss in found[1:]:
        for mine, theirs in zip(parameters, found[0][0], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
        assert losses == pytest.approx(found[0][1], rel=1e-4)
        assert c_bar == pytest.approx(found[0][2], rel=1e-2)
        assert train_loss == pytest.approx(found[0][3], rel=1e-4)


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup", "inverse_sqrt"])
def test_the_schedule_goes_by_examples(tmp_path: Path, kind: str) -> None:
    options = {"lr_scheduler_type": kind, "warmup_steps": 3}
    rates = []
    for sizes in ((10,), (5, 10, 25)):
        trainer = trainer_of(tmp_path, per_device_train_batch_size=10, **options)
        trainer.add_callback(watch := Watch())
        steered(trainer, *sizes, batch_sizes=(5, 10, 25))
        trainer.train()
        rates.append(watch.rates)
    nominal, changing = rates  # steps of 10; 10 steps of 5, 5 of 10, 2 of 25
    assert changing[0:10:2] == pytest.approx(nominal[0:5])
    assert changing[10:15] == pytest.approx(nominal[5:10])
    assert changing[15] == pytest.approx(nominal[10])
    assert nominal[0] == 0.0
    assert len(changing) == 17


def test_schedulers_of_the_users_own_go_by_examples_too(tmp_path: Path) -> None:
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.1)
    trainer: Any = Trainer(
        model,
        arguments(tmp_path, per_device_train_batch_size=10),
        train_dataset=Sentences(),
        optimizers=(optimizer, schedule),
    )
    trainer.add_callback(watch := Watch())
    steered(trainer, 5, 10, 25, batch_sizes=(5, 10, 25))
    trainer.train()
    assert watch.rates == pytest.approx([0.1] * 10 + [0.01] * 5 + [0.001] * 2)


def test_a_rule_takes_the_arguments_batch_size_as_its_reference(tmp_path: Path) -> None:
    for rule in ("linear", LearningRateRule("linear")):
        trainer = trainer_of(tmp_path, lr_scheduler_type="constant", num_train_epochs=1)
        callback = steered(trainer, 16, rates=Rates(rule=rule))
        trainer.train()
        assert callback.controller.lr == pytest.approx(2e-2)


@pytest.mark.parametrize("strategy", ["epoch", "steps", "no"])
def test_metrics_reach_the_policy(tmp_path: Path, strategy: str) -> None:
    trainer = trainer_of(tmp_path, eval_strategy=strategy, eval_steps=5)
    callback = steered(trainer, 8)
    trainer.train()
    seen = callback._settings["policy"].seen
    assert [observation.epoch for observation in seen] == [0, 1, 2]
    evaluated = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluated] == {"epoch": [6, 12, 18], "steps": [5, 10, 15, 18], "no": []}[
        strategy
    ]
    for observation, entry in zip(seen[1:], evaluated, strict=False):
        assert observation.validation_loss == entry["eval_loss"]
        assert observation.validation_error == 1 - entry["eval_accuracy"]
    assert all(0.5 < observation.train_loss < 2 for observation in seen[1:])
    if strategy == "no":
        assert seen[1].validation_loss != seen[1].validation_loss


def test_metrics_of_several_datasets_by_name(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, eval_strategy="epoch")
    trainer.eval_dataset = {"a": Sentences(7), "b": Sentences(9)}
    callback = steered(
        trainer, 8, validation_loss="eval_b_loss", validation_error=lambda metrics: 1 - metrics["eval_a_accuracy"]
    )
    trainer.train()
    seen = callback._settings["policy"].seen
    entries = trainer.state.log_history
    assert [o.validation_loss for o in seen[1:]] == [e["eval_b_loss"] for e in entries if "eval_b_loss" in e][:2]
    assert [o.validation_error for o in seen[1:]] == [
        1 - e["eval_a_accuracy"] for e in entries if "eval_a_accuracy" in e
    ][:2]


def test_a_callback_that_was_not_added_says_so(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    AutoBatchTrainerCallback(trainer, policy="s4", batch_sizes=(4, 8))
    with pytest.raises(ConfigError, match=r"call trainer\.add_callback\(callback\)"):
        trainer.train()


def test_decisions_within_one_epoch(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, num_train_epochs=1)
    callback = steered(trainer, 4, 8, 16, plan=BatchPlan(decide_every=0.25))
    trainer.train()
    assert sorted(trainer.train_dataset.asked) == list(range(SIZE))
    logged = [entry for entry in trainer.state.log_history if "autobatch/batch_size" in entry]
    assert [entry["autobatch/batch_size"] for entry in logged][:4] == [4, 8, 16, 16]
    assert callback.controller.finished


def test_decisions_are_in_the_trainers_log(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, eval_strategy="epoch", logging_strategy="steps", logging_steps=1)
    steered(trainer, 4, 16, 8, measuring=MeasureAtInterval(5))
    trainer.train()
    history = trainer.state.log_history
    decisions = [entry for entry in history if "autobatch/c_bar" in entry]
    assert [entry["step"] for entry in decisions] == [13, 16, 22]
    assert [entry["epoch"] for entry in decisions] == [1, 2, 3]
    assert decisions[0]["autobatch/reason"] == "period 2 has 16"
    assert decisions[0]["autobatch/c_bar"] > 1
    assert {name for entry in history for name, value in entry.items() if "autobatch/" in name and value != "none"} == {
        *(f"autobatch/{name}" for name in ("batch_size", "lr_effective", "c_bar", "l_cum", "examples", "reason"))
    }
    losses = [entry for entry in history if "loss" in entry]
    assert len(losses) == 22  # none is swallowed by a decision that is logged
    assert losses[13]["autobatch/batch_size"] == 16
    assert losses[13]["autobatch/lr_effective"] == pytest.approx(losses[13]["learning_rate"])
    trainer = trainer_of(tmp_path, logging_strategy="epoch")
    steered(trainer, 4, 16, 8)
    trainer.train()
    assert len([entry for entry in trainer.state.log_history if "loss" in entry]) == EPOCHS


class Cut(TrainerCallback):
    """Ends a training at a step, as a machine that dies would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


OPTIONS: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 1, "warmup_steps": 3}


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}, {"dataloader_num_workers": 1}],
    ids=["plain", "accumulated", "worker"],
)
def test_resumed_anywhere_ends_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    def run(**saving: Any) -> tuple[Any, AutoBatchTrainerCallback]:
        trainer = trainer_of(tmp_path, **{**OPTIONS, **options, **saving})
        return trainer, steered(trainer, 4, 16, 8, measuring=MeasureAtInterval(3))

    whole, callback = run()
    whole.train()
    assert whole.state.global_step == 22
    # Steps 13 and 16 end an epoch: there the evaluation and the decision are still to come.
    for step in (1, 13) if options else (1, 8, 13, 14, 16, 21):
        trainer, again = run(save_strategy="no")
        trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert same(weights(trainer), weights(whole))
        assert trainer.state.global_step == 22
        assert (again.controller.c_bar, again.controller.l_cum) == (
            callback.controller.c_bar,
            callback.controller.l_cum,
        )
        assert timeless(trainer.state.log_history) == timeless(whole.state.log_history)


@pytest.mark.parametrize("epochs", [5, 4])
def test_goes_back_to_its_best_weights_also_from_a_checkpoint(tmp_path: Path, epochs: int) -> None:
    class Begins(TrainerCallback):
        def __init__(self) -> None:
            self.weights: dict[int, list[Tensor]] = {}

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.weights[round(state.epoch)] = weights(whole)

    def run(**saving: Any) -> Any:
        trainer = trainer_of(tmp_path, **{**OPTIONS, "warmup_steps": 0, "num_train_epochs": epochs, **saving})
        steered(trainer, policy=Returns([8]))
        return trainer

    whole, begins = run(), Begins()
    whole.add_callback(begins)
    whole.train()
    assert same(begins.weights[3], begins.weights[1])
    assert not same(begins.weights[2], begins.weights[1])
    each = whole.state.global_step // epochs
    for step in (each + 1, 2 * each, 2 * each + 1, 3 * each):
        resumed = run(save_strategy="no")
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert same(weights(resumed), weights(whole))
    damaged = tmp_path / f"checkpoint-{2 * each + 1}" / "autobatch_kept.pt"
    damaged.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"autobatch_kept\.pt: truncated, damaged"):
        run(save_strategy="no").train(resume_from_checkpoint=str(damaged.parent))


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    clocks = ("second", "runtime", "train_loss", "total_flos", "measuring_share")
    return [
        {key: value for key, value in entry.items() if not any(clock in key for clock in clocks)}
        for entry in history
        if entry.get("autobatch/examples", 1) > 0
    ]


def test_resumed_at_epoch_ends_and_by_name(tmp_path: Path) -> None:
    def run(*callbacks: TrainerCallback) -> Any:
        trainer = trainer_of(tmp_path, **(OPTIONS | {"save_strategy": "epoch"}))
        steered(trainer, 4, 16, 8, plan=BatchPlan(decide_every=0.5))
        for callback in callbacks:
            trainer.add_callback(callback)
        return trainer

    whole = run()
    whole.train()
    shutil.rmtree(tmp_path)
    cut = run(Cut(18))
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    trainer = run()
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == whole.state.global_step
    assert same(weights(trainer), weights(whole))


def test_other_callbacks_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    def run() -> Any:
        trainer = trainer_of(
            tmp_path,
            **OPTIONS,
            restore_callback_states_from_checkpoint=True,
            metric_for_best_model="eval_loss",
            load_best_model_at_end=False,
        )
        steered(trainer, 8)
        return trainer

    run().train()
    trainer = run()
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 18


def test_training_twice_begins_anew(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, num_train_epochs=1)
    callback = steered(trainer, 4, 16)
    trainer.train()
    first = callback.controller
    trainer.train()
    assert callback.controller is not first
    assert trainer.train_dataset.asked == 2 * permutation(SIZE, 5, 0).tolist()


def test_a_controller_of_the_users_own(tmp_path: Path) -> None:
    """As :func:`autobatch.record_beacons` gives them."""
    trainer = trainer_of(tmp_path)
    controller = AutoBatchController(policy=Sizes(4, 16, 8), batch_sizes=(4, 8, 16), measuring=NeverMeasure(), seed=5)
    trainer.add_callback(AutoBatchTrainerCallback(trainer, controller=controller))
    assert trainer.train().global_step == controller.steps == 22
    assert trainer.train_dataset.asked == orders()
    with pytest.raises(ConfigError, match="attached already"):
        trainer.train()


def test_a_checkpoint_without_the_callback_is_refused(tmp_path: Path) -> None:
    trainer_of(tmp_path, **OPTIONS).train()
    trainer = trainer_of(tmp_path, **OPTIONS)
    steered(trainer, 8)
    with pytest.raises(CheckpointError, match="written without it"):
        trainer.train(resume_from_checkpoint=True)


def test_advice_changes_nothing(tmp_path: Path) -> None:
    found = []
    for advised in (False, True):
        trainer = trainer_of(tmp_path, gradient_accumulation_steps=2, **OPTIONS, dataloader_drop_last=True)
        if advised:
            callback = steered(trainer, 16, advise=True, measuring=MeasureAtInterval(2))
        trainer.train()
        found.append((weights(trainer), trainer.state.global_step))
    assert found[0][1] == found[1][1] == 9
    assert same(found[0][0], found[1][0])
    assert callback.controller.finished
    assert callback.controller.samples > 0
    advice = [entry["autobatch/limit"] for entry in trainer.state.log_history if "autobatch/limit" in entry]
    assert len(advice) == EPOCHS + 1
    again = trainer_of(tmp_path, gradient_accumulation_steps=2, **OPTIONS, dataloader_drop_last=True)
    callback = steered(again, 16, advise=True)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert same(weights(again), weights(trainer))
    assert callback.controller.finished


class Texts(Sentences):
    """Every token is a label, but for some at the start."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.asked.append(index)
        labels = self.tokens[index].clone()
        labels[: index % 4] = -100
        return {"input_ids": self.tokens[index], "labels": labels}


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=23,
            n_positions=6,
            n_embd=8,
            n_layer=1,
            n_head=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def test_token_means_are_over_the_batch(tmp_path: Path) -> None:
    found = []
    for options, plan in (
        ({}, None),
        ({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}, None),
        ({}, BatchPlan(micro_batch=3)),
    ):
        trainer: Any = Trainer(
            gpt2(), arguments(tmp_path, optim="sgd", logging_strategy="epoch", **options), train_dataset=Texts()
        )
        steered(trainer, 8, 16, plan=plan)
        trainer.train()
        found.append((weights(trainer), [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]))
    for parameters, losses in found[1:]:
        for mine, theirs in zip(parameters, found[0][0], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
        assert losses == pytest.approx(found[0][1], rel=1e-4)


def test_a_sequence_is_a_sample_of_a_token_mean(tmp_path: Path) -> None:
    """Its gradient is that of its share of the batch's loss, times the batch size."""
    model = gpt2()
    data = Texts()
    batch = [data[index] for index in permutation(SIZE, 5, 0).tolist()[:5]]
    inputs = {key: torch.stack([example[key] for example in batch]) for key in batch[0]}
    tokens = inputs["labels"].ne(-100).sum()  # as the Trainer counts them for this model
    columns = []
    for start in range(5):
        one = {key: value[start : start + 1] for key, value in inputs.items()}
        model.zero_grad()
        (5 * model(**one, num_items_in_batch=tokens).loss).backward()
        columns.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).double())
    expected = torch.stack(columns) @ torch.stack(columns).T
    model.zero_grad()

    grams = []
    true = FisherProbe.__exit__

    class Recorded(FisherProbe):
        def __exit__(self, *error: Any) -> None:
            true(self, *error)
            grams.append(self.gram())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FisherProbe, "__exit__", Recorded.__exit__)
        trainer: Any = Trainer(
            model, arguments(tmp_path, per_device_train_batch_size=5, num_train_epochs=1), train_dataset=data
        )
        steered(trainer, 5, batch_sizes=(5, 10), measuring=MeasureAtInterval(100))
        trainer.train()
    torch.testing.assert_close(grams[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_steps": 10}, "num_train_epochs"),
        ({"num_train_epochs": 1.5}, "whole number"),
        ({"auto_find_batch_size": True}, "micro_batch='auto'"),
        ({"dataloader_drop_last": True}, "every example"),
        ({"train_sampling_strategy": "group_by_length"}, "leave it 'random'"),
        ({"train_sampling_strategy": "sequential"}, "leave it 'random'"),
        ({"enable_jit_checkpoint": True}, "save_strategy"),
    ],
)
def test_arguments_that_cannot_be_used(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    trainer = trainer_of(tmp_path, **options)
    with pytest.raises(ConfigError, match=rf"TrainingArguments\.{next(iter(options))}=.*{told}"):
        steered(trainer, 8)


def test_other_things_that_cannot_be_used(tmp_path: Path) -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            return iter(())

    trainer = trainer_of(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'measuring'"):
        steered(trainer, 8, measurin=1)
    with pytest.raises(ConfigError, match="dataset_size follows from the trainer"):
        steered(trainer, 8, dataset_size=4)
    trainer.train_dataset = Stream()
    with pytest.raises(ConfigError, match="rebatch"):
        steered(trainer, 8)
    trainer = trainer_of(tmp_path, gradient_accumulation_steps=2)
    steered(trainer, 8, plan=BatchPlan(micro_batch=4))
    with pytest.raises(ConfigError, match=r"accumulation=1, and .* gradient_accumulation_steps=2"):
        trainer.train()
    with pytest.raises(ConfigError, match="has one already"):
        AutoBatchTrainerCallback(trainer, policy="s8", batch_sizes=(8,))
    with pytest.raises(ConfigError, match="batch_sizes is missing"):
        AutoBatchTrainerCallback(trainer_of(tmp_path), policy="s8")
    controller = AutoBatchController(policy="s8", batch_sizes=(8,))
    with pytest.raises(ConfigError, match=r"\['policy'\] and controller: give one"):
        AutoBatchTrainerCallback(trainer_of(tmp_path), policy="s8", controller=controller)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "autobatch.integrations.transformers")
    monkeypatch.delitem(sys.modules, "autobatch.integrations.transformers._callback")
    with pytest.raises(ConfigError, match=r"autobatch\[hf\]"):
        _ = integrations.AutoBatchTrainerCallback


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    example = Path(__file__).resolve().parents[2] / "examples" / "transformers_text.py"
    with torch.random.fork_rng():
        runpy.run_path(str(example), run_name="__main__")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("204 steps, error ")
    assert float(last.partition("error ")[2].split()[0]) < 5
    assert not list(tmp_path.iterdir())
    text = example.read_text()
    assert text.count("# autobatch\n") == 3
