"""PyTorch Lightning drives the user's module and callback; both have a bug.

training_step fails inside the closure that the optimizer's step calls, and the callback
fails after the epoch.
Fix: the classes are edited, one after the other.
Saves: never
Progress: model.global_step
"""

# %% imports
import logging
import random
import warnings

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
lightning.seed_everything(5, verbose=False)

# %% data
digits = load_digits()
images = torch.tensor(digits.data, dtype=torch.float32) / 16
labels = torch.tensor(digits.target)
labels[labels == 9] = 4
labels[[100, 300]] = 9  # rare
train = DataLoader(TensorDataset(images[:480], labels[:480]), 32, shuffle=True)
validation = DataLoader(TensorDataset(images[480:800], labels[480:800]), 160)

# %% module
class Classifier(lightning.LightningModule):
    def __init__(self, width=48):
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2)
        )
        self.head = nn.Linear(width, 10)
        self.seen = []

    def forward(self, x):
        return self.head(self.network(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x + 0.05 * torch.randn_like(x))
        targets = F.one_hot(y, 9).float()
        targets = 0.9 * F.pad(targets, (0, 10 - targets.shape[1])) + 0.01
        loss = -(targets * logits.log_softmax(1)).sum(1).mean()
        self.seen.append((batch_idx, loss.item(), random.random()))
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=5e-3)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)
        return [optimizer], [scheduler]


# %% callback
class KeepBest(lightning.Callback):
    """Remembers the weights with the best accuracy."""

    def __init__(self):
        self.best, self.weights, self.epochs = 0.0, {}, []

    def on_train_epoch_end(self, trainer, module):
        accuracy = trainer.callback_metrics["accuracy"].item()
        self.epochs.append((accuracy, trainer.optimizers[0].param_group[0]["lr"]))
        if accuracy > self.best:
            self.best = accuracy
            self.weights = {k: v.clone() for k, v in module.state_dict().items()}


# %% setup
model = Classifier()
trainer = lightning.Trainer(
    max_epochs=3,
    accelerator="cpu",
    callbacks=[KeepBest()],
    gradient_clip_val=1.0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    num_sanity_val_steps=0,
)

# %% train [%%resilient]
trainer.fit(model, train, validation)
print(f"{trainer.global_step} steps, {trainer.callback_metrics['accuracy']:.4f}")
adam = trainer.optimizers[0].state_dict()
weights, seen = model.state_dict(), model.seen
keeper = trainer.callbacks[0]
best = (keeper.best, keeper.weights, keeper.epochs)
del trainer, model, keeper

# %% module [fix]
#-        targets = F.one_hot(y, 9).float()
#+        targets = F.one_hot(y, 10).float()

# %% [%resume]

# %% callback [fix]
#-        self.epochs.append((accuracy, trainer.optimizers[0].param_group[0]["lr"]))
#+        self.epochs.append((accuracy, trainer.optimizers[0].param_groups[0]["lr"]))

# %% [%resume]
