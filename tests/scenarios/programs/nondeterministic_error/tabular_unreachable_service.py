"""Progress is reported to a service, which at some time is there no more.

Fix: the function is edited to try only, and the report that failed is given up:
`%resume --return None`.
Saves: every second epoch
Progress: len(losses)
"""

# %% imports
import http.server
import json
import os
import random
import threading
import urllib.request

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

random.seed(161)
np.random.seed(161)
torch.manual_seed(161)

# %% service
class Service(http.server.BaseHTTPRequestHandler):
    """Takes three reports, then it is gone."""

    num_reports = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        Service.num_reports += 1

    def log_message(self, *_):
        pass


def serve(server):
    while Service.num_reports < 3:
        server.handle_request()
    server.server_close()


_server = http.server.HTTPServer(("127.0.0.1", 0), Service)
_url = "http://{}:{}/metrics".format(*_server.server_address)
_thread = threading.Thread(target=serve, args=(_server,), daemon=True)
_thread.start()

# %% data
x, y = load_diabetes(return_X_y=True)
x = torch.tensor(x / x.std(0), dtype=torch.float32)
y = torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32)
is_test = torch.rand(len(x)) < 0.25
loader = DataLoader(
    TensorDataset(x[~is_test], y[~is_test]), batch_size=40, shuffle=True
)

# %% model
class Ensemble(nn.Module):
    """Members of one kind, trained together on samples with different weights."""

    def __init__(self, num_members=4, width=12):
        super().__init__()
        self.members = nn.ModuleList(
            nn.Sequential(nn.Linear(10, width), nn.Softplus(), nn.Linear(width, 1))
            for _ in range(num_members)
        )

    def forward(self, x):
        return torch.stack([member(x).squeeze(1) for member in self.members])


model = Ensemble()
optimizer = torch.optim.Adadelta(model.parameters(), lr=0.5)
scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", patience=1)

# %% report
def report(**metrics):
    body = json.dumps(metrics).encode()
    request = urllib.request.Request(_url, data=body, method="POST")
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.status


# %% start
losses, errors, start = [], [], 0
if os.path.exists("ensemble.pt"):
    kept = torch.load("ensemble.pt", weights_only=True)
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    losses, errors, start = kept["losses"], kept["errors"], kept["epoch"] + 1

# %% train [%%resilient]
for epoch in range(start, 6):
    for features, targets in loader:
        weights = torch.distributions.Exponential(1.0).sample((4, len(features)))
        loss = (weights * (model(features) - targets).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        predicted = model(x[is_test]).mean(0)
        error = (predicted - y[is_test]).abs().mean().item()
    scheduler.step(error)
    errors.append(round(error, 5))
    report(epoch=epoch, error=error, spread=random.random())
    print(f"epoch {epoch}: error {error:.4f}")
    if epoch % 2 == 1:
        kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(
            kept | {"losses": losses, "errors": errors, "epoch": epoch}, "ensemble.pt"
        )

# %% report [fix]
#-    with urllib.request.urlopen(request, timeout=5) as answer:
#-        return answer.status
#+    try:
#+        with urllib.request.urlopen(request, timeout=5) as answer:
#+            return answer.status
#+    except OSError as error:
#+        return None

# %% [%resume --return None]
