"""A small network on scikit-learn's handwritten digits, in plain torch. It knows nothing of ablab.

It writes a CSV row an epoch, reports each epoch as a line of JSON, and goes on from its last checkpoint.
"""

import argparse
import csv
import json
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--hidden", type=int, required=True)
parser.add_argument("--dropout", type=float, required=True)
parser.add_argument("--epochs", type=int, required=True)
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--work", type=Path, required=True, help="where checkpoints are; survives a crash")
arguments = parser.parse_args()

torch.manual_seed(arguments.seed)
images, labels = load_digits(return_X_y=True)
split = train_test_split(images / 16, labels, test_size=0.4, stratify=labels, random_state=0)
train, test, train_labels, test_labels = (torch.tensor(part) for part in split)
train, test = train.float(), test.float()

hidden, dropout = arguments.hidden, nn.Dropout(arguments.dropout)
network = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), dropout, nn.Linear(hidden, 10))
optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
rows = []

checkpoint = arguments.work / "checkpoint.pt"
if checkpoint.exists():
    state = torch.load(checkpoint, weights_only=True)
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["random"])
    rows = state["rows"]
    print(f"going on after epoch {len(rows)}")

for epoch in range(len(rows) + 1, arguments.epochs + 1):
    network.train()
    losses = []
    for batch in torch.randperm(len(train)).split(64):
        loss = nn.functional.cross_entropy(network(train[batch]), train_labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    network.eval()
    with torch.no_grad():
        right = (network(test).argmax(1) == test_labels).double().mean().item()
    rows.append({"epoch": epoch, "loss": sum(losses) / len(losses), "accuracy": right})
    print(json.dumps(rows[-1] | {"epochs": arguments.epochs}))
    state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
    new = checkpoint.with_suffix(".new")
    torch.save(state | {"random": torch.get_rng_state(), "rows": rows}, new)
    new.replace(checkpoint)  # whole or not at all: a crash may come at any time

with (arguments.out / "curve.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
torch.save(network.state_dict(), arguments.out / "network.pt")
