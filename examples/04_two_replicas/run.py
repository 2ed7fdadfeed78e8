"""PostgreSQL, two replicas of the service and a load balancer before them, on one machine: `python run.py`.

Needs PostgreSQL and nginx (`apt install postgresql nginx`) and `pip install 'bandmaster[models,postgres]'`. Sends
flowers and their species through the balancer, kills the replica that learns, and shows that nothing is lost and that
another learns. Everything lies in a temporary folder. `--stay` leaves it running until Ctrl-C.
"""

import os
import secrets
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
from sklearn.datasets import load_iris

HERE = Path(__file__).parent
NAMES = ("setosa", "versicolor", "virginica")
PATIENCE_S = 60.0


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def until(what: str, look: Callable[[], bool]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + PATIENCE_S
    while not look():
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {PATIENCE_S:.0f} s")
        time.sleep(0.1)


def program(name: str) -> str:
    folders = [
        *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True),
        "/usr/sbin",
        os.environ["PATH"],
    ]
    return shutil.which(name, path=":".join(folders)) or sys.exit(f"{name} is not here: apt install postgresql nginx")


@contextmanager
def running(*command: str, cwd: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program with all that it starts, stopped at the end."""
    with (cwd / f"{Path(command[0]).name}-{len(list(cwd.glob('*.out')))}.out").open("wb") as out:
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **env}, stdout=out, stderr=out, start_new_session=True
        )
        try:
            yield process
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)


def kill(process: subprocess.Popen[bytes]) -> None:
    """As when its machine dies: with all that it has started."""
    whole = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in whole:
        each.kill()
    process.wait(PATIENCE_S)
    psutil.wait_procs(whole, timeout=PATIENCE_S)


@contextmanager
def database(folder: Path) -> Iterator[str]:
    """A PostgreSQL of our own; its URL."""
    port, data = free_port(), folder / "data"
    folder.mkdir()
    as_other: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL will not run as root
        shutil.chown(folder, "postgres")
        folder.parent.chmod(0o755)
        as_other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    subprocess.run(
        [*as_other, program("initdb"), "-D", str(data), "-U", "bandmaster", "--auth=trust", "-E", "UTF8"],
        check=True, stdout=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    options = [f"-p{port}", "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    with running(*as_other, program("postgres"), "-D", str(data), *options, cwd=folder):
        until("PostgreSQL", lambda: is_open(port))
        yield f"postgresql://bandmaster@127.0.0.1:{port}/postgres"


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def leads(url: str) -> bool:
    try:
        return bool(httpx.get(f"{url}/orchestration/state", timeout=20).json()["leads"])
    except (httpx.TransportError, KeyError):
        return False


def send(client: httpx.Client, times: int) -> int:
    """Ask, and report what was right. How often that was acknowledged."""
    rows, labels = load_iris(return_X_y=True)
    acknowledged = 0
    for n in range(times):
        k = n * 7 % len(rows)
        asked = client.post("/classify", json={"input_series": [rows[k].tolist()]}).raise_for_status()
        told = {"decision_id": asked.headers["x-orchestration-decision"], "label": NAMES[labels[k]]}
        while (answer := client.post("/feedback", json=told)).status_code not in (200, 202):
            time.sleep(0.2)  # 503 while nobody takes it: it is sent again
        acknowledged += answer.json()["status"] != "duplicate"
    return acknowledged


def joined(client: httpx.Client) -> int:
    return int(client.get("/orchestration/state", timeout=20).json()["counts"]["joined"])


def main() -> None:
    if not (HERE / "linear.onnx").exists():
        subprocess.run([sys.executable, "train.py"], cwd=HERE, check=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(database(folder / "postgres"))
        shared = {"BANDMASTER_KEY": secrets.token_hex(32), "BENTOML_DO_NOT_TRACK": "True"}
        replicas = {}
        for name in ("first", "second"):
            own, port = folder / name, free_port()
            own.mkdir()
            serve = (sys.executable, "-m", "bentoml", "serve", str(HERE), "--host", "127.0.0.1", "--port", str(port))
            journal = f"{url}#{own / 'replica.db'}"
            env = shared | {"BENTOML_HOME": str(own), "BANDMASTER_JOURNAL": journal}
            replicas[port] = stack.enter_context(running(*serve, cwd=own, **env))
        for port in replicas:
            until(f"replica at {port}", lambda port=port: ready(f"http://127.0.0.1:{port}"))
        first, second = replicas
        balancer, text = free_port(), (HERE / "nginx.conf").read_text()
        (folder / "nginx.conf").write_text(string.Template(text).substitute(first=first, second=second, port=balancer))
        stack.enter_context(running(program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), cwd=folder))
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{balancer}", timeout=20))
        until("the load balancer", lambda: ready(str(client.base_url)))
        print(f"Two replicas behind {client.base_url}, the dashboard at {client.base_url}/orchestration/", flush=True)
        told = send(client, 100)
        until("all is joined", lambda: joined(client) == told)
        print(f"{told} outcomes reported, through either; {joined(client)} of them joined.", flush=True)
        found = next(port for port in replicas if leads(f"http://127.0.0.1:{port}"))
        kill(replicas[found])
        began, (other,) = time.monotonic(), (port for port in replicas if port != found)
        told += send(client, 100)
        until("another learns", lambda: leads(f"http://127.0.0.1:{other}"))
        until("all is joined", lambda: joined(client) == told)
        print(f"The replica that learned was killed: the other learns. {told} reported, {joined(client)} joined, "
              f"{time.monotonic() - began:.0f} s later.", flush=True)  # fmt: skip
        if "--stay" in sys.argv:
            print("Ctrl-C ends it.", flush=True)
            signal.pause()


if __name__ == "__main__":
    main()
