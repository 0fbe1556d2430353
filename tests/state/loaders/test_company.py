"""A DataLoader that fails inside what other libraries put around it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from training import Training, clean, resume, spoil  # noqa: E402

from gpurescue.recovery.engine import State  # noqa: E402
from gpurescue.recovery.plan import Restart  # noqa: E402

pytestmark = pytest.mark.thorough

DATA = """\
change = lambda x: x * torch.rand(()) + random.random() + np.random.randn()
class Rows(IterableDataset):
    def __iter__(self):
        for index in range(get_worker_info().id, 150, 2):
            yield change(images[index]), labels[index]
"""
LOADERS = {
    "map": "loader = DataLoader(Digits(change), 8, shuffle=True)",
    "workers": "loader = DataLoader(Digits(change), 8, shuffle=True, num_workers=2)",
    "iterable": "loader = DataLoader(Rows(), 8, num_workers=2)",
}
AROUND = {
    "tqdm": ("from tqdm import tqdm", "", "tqdm(loader, disable=True)", "batch"),
    "accelerate": (
        "from accelerate import Accelerator",
        "loader = Accelerator(cpu=True).prepare(loader)",
        "loader",
        "batch",
    ),
    "accelerate, skipping": (
        "from accelerate import Accelerator, skip_first_batches",
        "loader = Accelerator(cpu=True).prepare(loader)",
        "skip_first_batches(loader, 2)",
        "batch",
    ),
    "fabric": (
        "from lightning.fabric import Fabric",
        "loader = Fabric(accelerator='cpu', devices=1).setup_dataloaders(loader)",
        "loader",
        "batch",
    ),
    "combined": (
        "from lightning.pytorch.utilities import CombinedLoader",
        "both = CombinedLoader({'a': loader, 'b': DataLoader(range(999))}, 'min_size')",
        "both",
        "batch[0]['a']",
    ),
}


@pytest.mark.filterwarnings("ignore")  # of theirs
@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("name", AROUND)
def test_it_goes_on(name: str, kind: str) -> None:
    imports, around, loop, unpack = AROUND[name]
    pytest.importorskip(imports.split()[1].partition(".")[0])
    make, define = f"{LOADERS[kind]}\n{around}", f"{DATA}\n{imports}\n"
    plain = Training(make, define=define, loop=loop, unpack=unpack)
    expected = clean(plain)
    training = Training(make, define=define, loop=loop, unpack=unpack)
    mend = spoil(training, 120)
    run = training.start()
    assert run.state is State.SUSPENDED, run.error
    assert " again" in str(run.plan(Restart()))
    mend()
    assert resume(run) is State.FINISHED
    assert training.end() == expected
