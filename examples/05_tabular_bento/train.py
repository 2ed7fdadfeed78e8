"""Train three models of made-up loans and export them beside this file: `python train.py`."""

import json
from pathlib import Path

import numpy as np
from onnx import helper
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

rng = np.random.default_rng(0)
rows = np.column_stack([rng.gamma(6, 7, 2000), rng.gamma(2, 8, 2000), rng.exponential(5, 2000), rng.poisson(0.6, 2000)])
odds = 0.08 * rows[:, 0] - 0.1 * rows[:, 1] + 0.2 * np.sqrt(rows[:, 2]) - 1.2 * (rows[:, 3] > 1) - 1.5
labels = (rng.random(2000) < 1 / (1 + np.exp(-odds))).astype(int)
for name, model in {
    "scorecard": make_pipeline(StandardScaler(), LogisticRegression()),
    "boosting": GradientBoostingClassifier(random_state=0),
    "network": make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=800, random_state=0)),
}.items():
    model.fit(rows, labels)
    exported = to_onnx(model, rows[:1].astype(np.float32), options={id(model): {"zipmap": False}}, target_opset=17)
    helper.set_model_props(exported, {"classes": json.dumps(["no", "yes"])})
    Path(f"{name}.onnx").write_bytes(exported.SerializeToString())
