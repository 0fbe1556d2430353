"""Images come from a server over HTTP, which now and then is too busy to answer.

The server is a process of its own, on this machine.
Fix: none; the same request succeeds when it is made again.
Saves: every epoch
Progress: len(history)
"""

# %% imports
import io
import os
import random
import subprocess
import sys
import urllib.request

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

random.seed(131)
np.random.seed(131)
torch.manual_seed(131)

# %% server
_server_code = """
import http.server, io, sys
import numpy as np
from sklearn.datasets import load_digits

images = load_digits().images.astype("float32")
busy_at = int(sys.argv[1])
count = 0

class Images(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global count
        count += 1
        if count == busy_at:
            self.send_error(503)
            return
        file = io.BytesIO()
        first, last = self.path.strip("/").split("-")
        np.save(file, images[int(first):int(last)])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(file.getvalue())

    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Images)
print(server.server_port, flush=True)
server.serve_forever()
"""
_busy_at = "17"
_server = subprocess.Popen(
    [sys.executable, "-c", _server_code, _busy_at], stdout=subprocess.PIPE
)
_url = "http://{}:{}".format("localhost", int(_server.stdout.readline()))

# %% data
class Chunks(Dataset):
    """Each item is a chunk of images, so that there are fewer requests."""

    def __init__(self, labels, size=20):
        self.labels, self.size = labels, size

    def __len__(self):
        return len(self.labels) // self.size

    def __getitem__(self, i):
        first, last = i * self.size, (i + 1) * self.size
        with urllib.request.urlopen(f"{_url}/{first}-{last}") as reply:
            images = np.load(io.BytesIO(reply.read()))
        turned = np.rot90(images, 2, axes=(1, 2)) if random.random() < 0.2 else images
        return torch.tensor(turned.copy()), torch.tensor(self.labels[first:last])


loader = DataLoader(
    Chunks(load_digits().target[:240]), batch_size=3, shuffle=True, collate_fn=list
)

# %% model
model = nn.Sequential(
    nn.Unflatten(0, (-1, 1)),
    nn.Conv2d(1, 16, 3, stride=2),
    nn.BatchNorm2d(16),
    nn.ELU(),
    nn.Dropout2d(0.1),
    nn.Flatten(),
    nn.Linear(144, 10),
)
optimizer = torch.optim.ASGD(model.parameters(), lr=0.05)
history, first_epoch = [], 0
if os.path.exists("remote.pt"):
    saved = torch.load("remote.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    history, first_epoch = saved["history"], saved["epoch"] + 1

# %% train [%%resilient]
for epoch in range(first_epoch, 4):
    for chunks in loader:
        x = torch.cat([images for images, _ in chunks]) / 16
        y = torch.cat([labels for _, labels in chunks])
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(saved | {"history": history, "epoch": epoch}, "remote.pt")
    print(f"epoch {epoch}: {sum(history[-4:]) / 4:.4f}")
_server.kill()
_server.communicate()

# %% server [clean]
#-_busy_at = "17"
#+_busy_at = "0"

# %% [%resume]
