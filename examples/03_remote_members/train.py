"""Train three small models of scikit-learn's irises and export them beside this file: `python train.py`."""

import json
from pathlib import Path

import numpy as np
from onnx import helper
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

rows, labels = load_iris(return_X_y=True)
for name, model in {
    "linear": LogisticRegression(max_iter=500),
    "tree": DecisionTreeClassifier(max_depth=3, random_state=0),
    "bayes": GaussianNB(),
}.items():
    model.fit(rows, labels)
    exported = to_onnx(model, rows[:1].astype(np.float32), options={id(model): {"zipmap": False}}, target_opset=17)
    helper.set_model_props(exported, {"classes": json.dumps(["setosa", "versicolor", "virginica"])})
    Path(f"{name}.onnx").write_bytes(exported.SerializeToString())
