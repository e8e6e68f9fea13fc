"""A Lightning module and data module as any tutorial has them; four lines are new, marked `# autobatch`.

python examples/lightning_digits.py
"""

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from autobatch.integrations import AutoBatchCallback  # autobatch


class Digits(LightningDataModule):
    def setup(self, stage: str) -> None:
        x, y = load_digits(return_X_y=True)
        data = TensorDataset(torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y))
        self.train, self.val = random_split(data, [1500, 297], torch.Generator().manual_seed(0))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=32, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=297)


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self.layers(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        logits = self.layers(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_error", (logits.argmax(1) != batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


if __name__ == "__main__":
    seed_everything(0)
    sizes = (32, 64, 128, 256)  # autobatch
    callback = AutoBatchCallback(policy="s32-to-256", batch_sizes=sizes, rates="sqrt")  # autobatch
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        max_epochs=8,
        callbacks=[callback],  # autobatch
        accelerator="cpu",
        **quiet,
    )
    trainer.fit(Classifier(), datamodule=Digits())
    error = float(trainer.callback_metrics["val_error"])
    print(f"{trainer.global_step} steps, error {100 * error:.1f} %, C̄ {callback.controller.c_bar:.1f}")
