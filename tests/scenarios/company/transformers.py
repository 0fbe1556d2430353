"""The Trainer of Hugging Face drives the user's compute_loss and callback.

The loss fails for a line that is indented deeply, the callback after the first epoch.
Fix: the classes are edited, one after the other.
Saves: never
Progress: trainer.state.global_step
"""

# %% imports
import inspect
import random
import string
import textwrap
import warnings

import torch
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

warnings.simplefilter("ignore")
set_seed(7)

# %% data
class Lines(torch.utils.data.Dataset):
    """Lines of two modules; which is it?"""

    def __init__(self, modules, size=160, length=24):
        self.items = []
        for label, module in enumerate(modules):
            lines = [x for x in inspect.getsource(module).splitlines() if x.strip()]
            for line in lines[:size]:
                text = line.strip()[:length]
                ids = [2 + string.printable.index(c) % 90 for c in text]
                ids += [0] * (length - len(ids))
                weight = len(line) - len(line.lstrip())
                self.items.append({"input_ids": ids, "labels": label, "indent": weight})

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


dataset = Lines([textwrap, string])

# %% model
config = BertConfig(
    vocab_size=100,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=32,
)
model = BertForSequenceClassification(config)

IMPORTANCE = torch.linspace(1.0, 0.5, 8)  # by indentation

# %% trainer
class WeightedTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        indent = inputs.pop("indent")
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        each = F.cross_entropy(outputs.logits, labels, reduction="none")
        loss = (each * IMPORTANCE[indent // 4]).mean()
        return (loss, outputs) if return_outputs else loss


# %% callback
class Keep(TrainerCallback):
    def on_epoch_end(self, args, state, control, **kwargs):
        newest = state.log_history[-1]
        logged.append((state.epoch, newest["eval_loss"], random.random()))


# %% setup
logged = []
arguments = TrainingArguments(
    "out",
    num_train_epochs=2,
    per_device_train_batch_size=16,
    learning_rate=2e-3,
    warmup_steps=5,
    logging_steps=5,
    save_strategy="no",
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
    remove_unused_columns=False,
)
trainer = WeightedTrainer(model, arguments, train_dataset=dataset, callbacks=[Keep()])
trainer.remove_callback(PrinterCallback)

# %% train [%%resilient]
trainer.train()
steps = trainer.state.global_step
adam = trainer.optimizer.state_dict()
weights = model.state_dict()
print(f"{steps} steps, logged {len(logged)} times")
del trainer, arguments

# %% trainer [fix]
#-        loss = (each * IMPORTANCE[indent // 4]).mean()
#+        level = (indent // 4).clamp(max=len(IMPORTANCE) - 1)
#+        loss = (each * IMPORTANCE[level]).mean()

# %% [%resume]

# %% callback [fix]
#-        logged.append((state.epoch, newest["eval_loss"], random.random()))
#+        logged.append((state.epoch, newest["loss"], random.random()))

# %% [%resume]
