"""A fingerprint in a service: predictions only for inputs of the kind that the model knows.

    python examples/fingerprint_service.py

The service is Python's own http.server. A request is an .npy file of images, an answer is JSON.
"""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import pydrift

ALPHA = 0.01  # so many of the images that the model knows are rejected
MAX_BYTES = 1 << 20


def service(fingerprint: Path, model: nn.Module) -> ThreadingHTTPServer:
    """A server on a free port of this machine. It refuses to start with another model than the fingerprint's."""
    scorer = pydrift.Fingerprint.load(fingerprint).scorer(model)
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                body = self.rfile.read(min(int(self.headers["Content-Length"]), MAX_BYTES))
                images = torch.from_numpy(np.load(io.BytesIO(body), allow_pickle=False))
                with one_at_a_time:
                    scores = scorer.score(images)
            except (ValueError, TypeError, pydrift.PydriftError) as error:
                self.send_error(400, str(error)[:200].replace("\n", " "))
                return
            answers = [
                {"class": int(label), "p": float(p)} if p > ALPHA else {"rejected": True, "p": float(p)}
                for label, p in zip(scores.prediction, scores.p, strict=True)
            ]
            content = json.dumps(answers).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def train(images: pydrift.LabelledImages) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    )
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for _ in range(15):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            cross_entropy(network(images.x[batch]), images.y[batch]).backward()
            optimizer.step()
    return network.eval()


def asked(port: int, images: torch.Tensor) -> list[dict[str, float]]:
    content = io.BytesIO()
    np.save(content, images.numpy())
    with urlopen(f"http://127.0.0.1:{port}/", content.getvalue()) as answer:
        return json.load(answer)


def main() -> None:
    images = pydrift.load_data("digits")
    known = np.arange(len(images)) % 4 > 0  # three quarters are for training, the others calibrate
    model = train(images.subset(torch.from_numpy(known)))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.fp"
        pydrift.fit_fingerprint(model, images, known).save(path)
        server = service(path, model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digits = pydrift.load_data("digits", "test").x[:200]
    noise = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for name, inputs in {"digits": digits, "noise": noise}.items():
        rejected = sum("rejected" in answer for answer in asked(server.server_port, inputs))
        print(f"{name}: {rejected} of {len(inputs)} rejected")
    server.shutdown()


if __name__ == "__main__":
    main()
