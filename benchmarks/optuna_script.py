"""What a user writes without lepton: Optuna, a training loop, pruning, onnxruntime's quantizer.

    python benchmarks/optuna_script.py DATA.npz SECONDS OUT_FOLDER [SEED]

Trials stop after SECONDS of CPU time; then the best net is trained on all training pictures, half
of its channels are cut and it is trained again, and both become int8 files, `whole.onnx` and
`pruned.onnx`. The last line is JSON: accuracy on the test part, bytes, validation accuracy, CPU
seconds. Needs torch-pruning and onnxscript, which lepton does not (`pip install torch-pruning
onnxscript sympy`).
"""

from __future__ import annotations

import contextlib
import copy
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import optuna
import torch
import torch.nn.functional as F
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from sklearn.model_selection import train_test_split
from torch import nn

data, budget, out = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
seed = int(sys.argv[4]) if len(sys.argv) > 4 else 0
out.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)
torch.manual_seed(seed)
np.random.seed(seed)


def read(part):
    with np.load(data) as file:
        x, y = file[f"x_{part}"], file[f"y_{part}"].astype(np.int64)
    x = (x[..., None] if x.ndim == 3 else x).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x, np.float32) / 255, y


x_all, y_all = read("train")
x_fit, x_val, y_fit, y_val = train_test_split(
    x_all, y_all, test_size=0.2, random_state=seed, stratify=y_all
)
EPOCHS, CLASSES = 8, int(y_all.max()) + 1


class Block(nn.Module):
    def __init__(self, i, o, k, res, pool):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(i, o, k, padding=k // 2, bias=False), nn.BatchNorm2d(o)
        self.c2 = nn.Conv2d(o, o, k, padding=k // 2, bias=False) if res else None
        self.b2 = nn.BatchNorm2d(o) if res else None
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def forward(self, x):
        x = F.relu(self.b1(self.c1(x)))
        if self.c2 is not None:
            x = F.relu(x + self.b2(self.c2(x)))
        return self.pool(x)


def build(p):
    layers, i, w, size = [], x_all.shape[1], p["width"], min(x_all.shape[2:])
    for _ in range(p["blocks"]):
        pool = size >= 4
        layers.append(Block(i, w, p["kernel"], p["residual"], pool))
        i, w = w, min(int(w * p["growth"]), 256)
        size = size // 2 if pool else size
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(p["dropout"]), nn.Linear(i, CLASSES)
    return nn.Sequential(*layers, *head)


def augment(x, pad):
    if not pad:
        return x
    n, c, h, w = x.shape
    if c == 3:
        x = torch.where(torch.rand(n, 1, 1, 1) < 0.5, x.flip(3), x)
    dx, dy = np.random.randint(0, 2 * pad + 1, 2)
    return F.pad(x, (pad,) * 4)[:, :, dy : dy + h, dx : dx + w]


def train(m, p, x, y, epochs, lr, on_epoch=lambda epoch: None):
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    opt = (
        torch.optim.AdamW(m.parameters(), lr, weight_decay=p["wd"])
        if p["opt"] == "adamw"
        else torch.optim.SGD(
            m.parameters(), lr * 30, momentum=0.9, weight_decay=p["wd"], nesterov=True
        )
    )
    steps = epochs * -(-len(x) // p["batch"])
    rates = [group["lr"] for group in opt.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, rates, total_steps=steps, pct_start=0.2)
    for epoch in range(epochs):
        m.train()
        for idx in torch.randperm(len(x)).split(p["batch"]):
            opt.zero_grad()
            F.cross_entropy(m(augment(x[idx], p["pad"])), y[idx]).backward()
            opt.step()
            schedule.step()
        on_epoch(epoch)


@torch.no_grad()
def accuracy(m, x, y):
    m.eval()
    right = [(m(torch.from_numpy(a)).argmax(1).numpy() == b) for a, b in batches(x, y)]
    return float(np.concatenate(right).mean())


def batches(x, y):
    return zip(
        np.array_split(x, len(x) // 256 + 1), np.array_split(y, len(x) // 256 + 1), strict=True
    )


def objective(trial):
    p = {
        "blocks": trial.suggest_int("blocks", 2, 4),
        "width": trial.suggest_categorical("width", [16, 24, 32, 48]),
        "growth": trial.suggest_categorical("growth", [1.0, 1.5, 2.0]),
        "kernel": trial.suggest_categorical("kernel", [3, 5]),
        "residual": trial.suggest_categorical("residual", [False, True]),
        "dropout": trial.suggest_float("dropout", 0, 0.4),
        "lr": trial.suggest_float("lr", 3e-4, 2e-2, log=True),
        "wd": trial.suggest_float("wd", 1e-5, 1e-1, log=True),
        "opt": trial.suggest_categorical("opt", ["adamw", "sgd"]),
        "batch": trial.suggest_categorical("batch", [32, 64, 128]),
        "pad": trial.suggest_categorical("pad", [0, 4]),
    }
    trial.set_user_attr("p", p)
    m, best = build(p), [0.0]

    def on_epoch(epoch):
        best[0] = accuracy(m, x_val, y_val)
        trial.report(best[0], epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    train(m, p, x_fit, y_fit, EPOCHS, p["lr"], on_epoch)
    return best[0]


class Calibration(CalibrationDataReader):
    def __init__(self, x):
        self.left = iter([{"x": x[n : n + 32]} for n in range(0, len(x), 32)])

    def get_next(self):
        return next(self.left, None)


def export(m, name):
    shape = torch.zeros(2, *x_all.shape[1:])
    where, ready = out / f"{name}.fp32.onnx", out / f"{name}.ready.onnx"
    with contextlib.redirect_stdout(sys.stderr):
        torch.onnx.export(
            m.eval(),
            (shape,),
            where,
            input_names=["x"],
            output_names=["y"],
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("b", min=1, max=4096)},),
            dynamo=True,
            verbose=False,
        )
        quant_pre_process(where, ready)
        quantize_static(
            ready,
            out / f"{name}.onnx",
            Calibration(sample),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
    return (out / f"{name}.onnx").read_bytes()


def file_accuracy(file, x, y):
    net = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    right = [net.run(None, {"x": a})[0].argmax(1) == b for a, b in batches(x, y)]
    return float(np.concatenate(right).mean())


if __name__ == "__main__":
    import torch_pruning

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
    )
    stop = lambda study, trial: study.stop() if time.process_time() > budget else None
    study.optimize(objective, callbacks=[stop])
    p = study.best_trial.user_attrs["p"]
    whole = build(p)
    train(whole, p, x_all, y_all, 2 * EPOCHS, p["lr"])
    pruned = copy.deepcopy(whole).eval()
    torch_pruning.pruner.MagnitudePruner(
        pruned,
        torch.zeros(2, *x_all.shape[1:]),
        pruning_ratio=0.5,
        ignored_layers=[pruned[-1]],
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
    ).step()
    train(pruned, p, x_all, y_all, EPOCHS, p["lr"] / 3)
    sample = x_all[np.random.default_rng(seed).permutation(len(x_all))[:256]]
    x_test, y_test = read("test")
    files = {name: export(m, name) for name, m in (("whole", whole), ("pruned", pruned))}
    result = {
        name: {"int8_accuracy": file_accuracy(file, x_test, y_test), "size_bytes": len(file)}
        for name, file in files.items()
    }
    result |= {"validation": study.best_value, "trials": len(study.trials), "parameters": p}
    print(json.dumps(result | {"cpu": time.process_time()}))
