"""A model server that speaks the Open Inference Protocol, version 2, in a page: `python model_server.py [PORT]`.

It stands in for Triton, KServe or MLServer, and serves every .onnx of this folder by its name.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

MODELS = {path.stem: onnxruntime.InferenceSession(str(path)) for path in Path(__file__).parent.glob("*.onnx")}


def not_found(name: str) -> JSONResponse:
    return JSONResponse({"error": f"no model {name!r}; there are {', '.join(MODELS)}"}, 404)


async def ready(request: Request) -> JSONResponse:
    return JSONResponse({"ready": True})


async def metadata(request: Request) -> JSONResponse:
    """What a model takes and gives; −1 stands for any number of rows."""
    name = request.path_params["name"]
    if name not in MODELS:
        return not_found(name)
    given = MODELS[name].get_inputs()[0]
    return JSONResponse(
        {
            "name": name,
            "platform": "onnxruntime",
            "inputs": [{"name": given.name, "datatype": "FP32", "shape": [-1, *given.shape[1:]]}],
            "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}],
        }
    )


async def infer(request: Request) -> JSONResponse:
    name = request.path_params["name"]
    if name not in MODELS:
        return not_found(name)
    (given,) = (await request.json())["inputs"]
    rows = np.array(given["data"], dtype=np.float32).reshape(given["shape"])
    (scores,) = MODELS[name].run(["probabilities"], {given["name"]: rows})
    output = {"name": "probabilities", "datatype": "FP32", "shape": scores.shape, "data": scores.ravel().tolist()}
    return JSONResponse({"model_name": name, "outputs": [output]})


app = Starlette(
    routes=[
        Route("/v2/health/ready", ready),
        Route("/v2/models/{name}", metadata),
        Route("/v2/models/{name}/infer", infer, methods=["POST"]),
    ]
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]) if sys.argv[1:] else 8080, log_level="warning")
