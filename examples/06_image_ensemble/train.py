"""Train three readers of digits, export them, and draw one digit to try them with: `python train.py`."""

import warnings
from pathlib import Path

import numpy as np
import PIL.Image
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

warnings.simplefilter("ignore")  # a hundred iterations suffice
rows, labels = load_digits(return_X_y=True)
rows = (rows / 16).astype(np.float32)
for name, model in {
    "linear": LogisticRegression(max_iter=100),
    "network": MLPClassifier((32,), max_iter=100, random_state=0),
    "forest": RandomForestClassifier(100, random_state=0),
}.items():
    model.fit(rows, labels)
    exported = to_onnx(model, rows[:1], options={id(model): {"zipmap": False}}, target_opset=17)
    Path(f"{name}.onnx").write_bytes(exported.SerializeToString())

ink = rows[np.flatnonzero(labels == 7)[0]].reshape(8, 8)
PIL.Image.fromarray(np.uint8(255 * (1 - ink))).resize((80, 80), PIL.Image.Resampling.NEAREST).save("seven.png")
