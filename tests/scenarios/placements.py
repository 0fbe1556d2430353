"""Ten places where a bug can sit in a training program, each with its fix.

Every program trains on the handwritten digits that ship inside scikit-learn, with
dropout, BatchNorm, Adam and a shuffled DataLoader, so that one random number drawn
too often, one batch lost or one statistic updated twice changes the result.
"""

from __future__ import annotations

from scenario import Scenario

SETUP = """
import hashlib, json, random
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits

torch.set_num_threads(1)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).div(16).unsqueeze(1)[:512]
labels = torch.tensor(digits.target)[:512]

def seed():
    random.seed(7); np.random.seed(7); torch.manual_seed(7)

def digest(model, optimizer, log):
    found = hashlib.sha256()
    for tensor in model.state_dict().values():
        found.update(tensor.numpy().tobytes())
    for state in optimizer.state.values():
        for value in state.values():
            found.update(torch.as_tensor(value).numpy().tobytes())
    found.update(torch.get_rng_state().numpy().tobytes())
    found.update(np.random.get_state()[1].tobytes())
    found.update(repr(random.getstate()).encode())
    found.update(repr(log).encode())
    return found.hexdigest()

seed()
log = []
"""

NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.MaxPool2d(2), nn.Dropout(0.2),
        )
        self.head = nn.Linear(128, 10)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = self.features(x)
        x = x.flatten(1)
        return self.head(x)
"""

MAKE = """
model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)
"""

BODY = """
for epoch in range(2):
    for step, (x, y) in enumerate(loader):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        log.append(loss.item())
print("done", len(log))
"""

TRAIN = """
def train(model, optimizer, loader, epochs=2):
    for epoch in range(epochs):
        for step, (x, y) in enumerate(loader):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            log.append(loss.item())
    return len(log)
"""


def _swap(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, (old, text)
    return text.replace(old, new)


_HELPER = """
def augment(x):
    noise = torch.randn_like(x) * 0.05
    if len(log) == 9:
        noise = noise.to(x.dtpye)
    return x + noise * random.random()
"""
_HELPER_BODY = _swap(BODY, "model(x)", "model(augment(x))")

_FORWARD = _swap(
    NET,
    "        x = x.flatten(1)\n",
    "        x = x.flatten(1)\n"
    "        if self.calls == 11:\n"
    "            x = x.veiw(-1, 128)\n",
)

_STEP = _swap(
    TRAIN,
    "            optimizer.step()\n",
    "            if len(log) == 10:\n"
    "                norm = nn.utils.clip_grad_norm(model, 1.0)\n"
    "            optimizer.step()\n",
)

_INNER = _swap(
    TRAIN,
    "            log.append(loss.item())\n",
    "            for name, parameter in model.named_parameters():\n"
    "                for k in range(2):\n"
    "                    if len(log) == 6 and k == 1 and 'head' in name:\n"
    "                        log.append(parameter.nrom().item())\n"
    "            log.append(loss.item())\n",
)

_CELL = _swap(
    BODY,
    "        log.append(loss.item())\n",
    "        log.append(loss.item())\n"
    "        if epoch == 1 and step == 3:\n"
    "            log.append(accuracy(loss))\n",
)

_EVALUATE = """
@torch.no_grad()
def predict(model, x):
    return model(x).argmax(1)

def evaluate(model, x, y):
    model.eval()
    correct = 0
    with torch.no_grad():
        for start in range(0, len(x), 128):
            found = predict(model, x[start:start + 128])
            correct += (found == y[start:start + 128]).smu().item()
    model.train()
    return correct / len(x)
"""
_EVALUATE_BODY = _swap(
    BODY, "print(", "    log.append(evaluate(model, images, labels))\nprint("
)

_CLOSURE = """
def make_criterion(smoothing):
    count = 0
    def criterion(output, target):
        nonlocal count
        count += 1
        weight = torch.rand(10)
        if count == 8:
            smoothing.backward()
        return F.cross_entropy(output, target, weight=weight, label_smoothing=smoothing)
    return criterion
"""
_MAKE_CRITERION = "criterion = make_criterion(0.1)\n"
_CLOSURE_BODY = _swap(BODY, "F.cross_entropy(model(x), y)", "criterion(model(x), y)")

_TRAINER = """
class Base:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.seen = 0

    def batch(self, x, y):
        self.seen += len(x)
        return F.cross_entropy(self.model(x), y)

class Trainer(Base):
    def batch(self, x, y):
        loss = super().batch(x, y)
        if self.seen > 700:
            loss = loss + self.penatly()
        return loss

    def penalty(self):
        return 1e-3 * sum(p.square().sum() for p in self.model.parameters())

    def fit(self, loader, epochs):
        for epoch in range(epochs):
            for x, y in loader:
                self.optimizer.zero_grad()
                loss = self.batch(x, y)
                loss.backward()
                self.optimizer.step()
                log.append(loss.item())
"""
_TRAINER_BODY = """
trainer = Trainer(model, optimizer)
trainer.fit(loader, 2)
print("done", len(log), isinstance(trainer, Trainer))
"""

_BAD_BATCH = """
class Digits(torch.utils.data.Dataset):
    def __len__(self):
        return len(images)
    def __getitem__(self, i):
        return images[i], labels[i] + (100 if i == 300 else 0)
"""
_BAD_MAKE = _swap(MAKE, "TensorDataset(images, labels)", "Digits()")

_CONFIG = """
config = {"lr": [1e-2, 5e-3], "smoothing": 0.1}
def rate(step):
    return config["lr"][step // 6]
"""
_CONFIG_BODY = _swap(
    BODY,
    "        optimizer.step()\n",
    "        for group in optimizer.param_groups:\n"
    "            group['lr'] = rate(len(log))\n"
    "        optimizer.step()\n",
)


def _placement(
    *, body: str = BODY, clean_body: str = BODY, **cells: tuple[str, ...] | str
) -> Scenario:
    return Scenario(body=body, clean_body=clean_body, **cells)


PLACEMENTS = (
    _placement(
        name="helper",
        cells=(_HELPER, NET, MAKE),
        body=_HELPER_BODY,
        fix=(_swap(_HELPER, "dtpye", "dtype"), "%resume"),
        clean_cells=(_swap(_HELPER, "dtpye", "dtype"), NET, MAKE),
        clean_body=_HELPER_BODY,
    ),
    _placement(
        name="forward",
        cells=(_FORWARD, MAKE),
        fix=(_swap(_FORWARD, "veiw", "view"), "%resume"),
        clean_cells=(_swap(_FORWARD, "veiw", "view"), MAKE),
    ),
    _placement(
        name="between backward and step",
        cells=(NET, MAKE, _STEP),
        body="count = train(model, optimizer, loader)\nprint('done', count)\n",
        fix=(
            _swap(
                _STEP, "clip_grad_norm(model,", "clip_grad_norm_(model.parameters(),"
            ),
            "%resume",
        ),
        clean_cells=(
            NET,
            MAKE,
            _swap(
                _STEP, "clip_grad_norm(model,", "clip_grad_norm_(model.parameters(),"
            ),
        ),
        clean_body="count = train(model, optimizer, loader)\nprint('done', count)\n",
    ),
    _placement(
        name="nested inner loop",
        cells=(NET, MAKE, _INNER),
        body="count = train(model, optimizer, loader)\nprint('done', count)\n",
        fix=(_swap(_INNER, "nrom", "norm"), "%resume"),
        clean_cells=(NET, MAKE, _swap(_INNER, "nrom", "norm")),
        clean_body="count = train(model, optimizer, loader)\nprint('done', count)\n",
    ),
    _placement(
        name="cell-level loop",
        cells=(NET, MAKE),
        body=_CELL,
        fix=("%%resume\n" + _swap(_CELL, "accuracy(loss)", "loss.exp().item()"),),
        clean_cells=(NET, MAKE),
        clean_body=_swap(_CELL, "accuracy(loss)", "loss.exp().item()"),
    ),
    _placement(
        name="no_grad evaluation",
        cells=(NET, MAKE, _EVALUATE),
        body=_EVALUATE_BODY,
        fix=(_swap(_EVALUATE, "smu()", "sum()"), "%resume"),
        clean_cells=(NET, MAKE, _swap(_EVALUATE, "smu()", "sum()")),
        clean_body=_EVALUATE_BODY,
    ),
    _placement(
        name="closure",
        cells=(NET, MAKE, _CLOSURE, _MAKE_CRITERION),
        body=_CLOSURE_BODY,
        fix=(_swap(_CLOSURE, "smoothing.backward()", "weight = weight + 1"), "%resume"),
        clean_cells=(
            NET,
            MAKE,
            _swap(_CLOSURE, "smoothing.backward()", "weight = weight + 1"),
            _MAKE_CRITERION,
        ),
        clean_body=_CLOSURE_BODY,
    ),
    _placement(
        name="method of a class",
        cells=(NET, MAKE, _TRAINER),
        body=_TRAINER_BODY,
        fix=(_swap(_TRAINER, "penatly", "penalty"), "%resume"),
        clean_cells=(NET, MAKE, _swap(_TRAINER, "penatly", "penalty")),
        clean_body=_TRAINER_BODY,
    ),
    _placement(
        name="bad batch",
        cells=(NET, _BAD_BATCH, _BAD_MAKE),
        fix=(
            "%%at\nprint(x.shape, y.max())\n",
            "%%at\ny[y >= 100] -= 100\n",
            _swap(_BAD_BATCH, "100 if i == 300 else 0", "0"),
            "%resume",
        ),
        clean_cells=(NET, _swap(_BAD_BATCH, "100 if i == 300 else 0", "0"), _BAD_MAKE),
    ),
    _placement(
        name="config value",
        cells=(NET, MAKE, _CONFIG),
        body=_CONFIG_BODY,
        fix=("config['lr'].append(1e-3)", "%resume"),
        clean_cells=(NET, MAKE, _swap(_CONFIG, "[1e-2, 5e-3]", "[1e-2, 5e-3, 1e-3]")),
        clean_body=_CONFIG_BODY,
    ),
)
