"""A random forest on scikit-learn's handwritten digits. It knows nothing of ablab."""

import argparse
import json
import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split

parser = argparse.ArgumentParser()
parser.add_argument("--depth", type=int, required=True)
parser.add_argument("--trees", type=int, required=True)
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--out", type=Path, required=True)
arguments = parser.parse_args()

images, labels = load_digits(return_X_y=True)
train, test, train_labels, test_labels = train_test_split(
    images, labels, test_size=0.4, stratify=labels, random_state=0
)
began = time.perf_counter()
forest = RandomForestClassifier(arguments.trees, max_depth=arguments.depth, random_state=arguments.seed)
forest.fit(train, train_labels)
seconds = time.perf_counter() - began

chances = forest.predict_proba(test)
accuracy = accuracy_score(test_labels, np.argmax(chances, axis=1))
nodes = sum(tree.tree_.node_count for tree in forest.estimators_)
print(f"{arguments.trees} trees of depth {arguments.depth}: {accuracy:.4f} on {len(test)} digits")

joblib.dump(forest, arguments.out / "forest.joblib")
numbers = {"accuracy": accuracy, "log_loss": log_loss(test_labels, chances), "nodes": nodes, "seconds": seconds}
(arguments.out / "metrics.json").write_text(json.dumps(numbers))
