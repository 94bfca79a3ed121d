"""The command-line options that every script has: a result file, and for some a device."""

import argparse
from pathlib import Path

import torch

from pydrift.core.errors import PydriftError
from pydrift.core.files import check_writable


def script_parser(doc: str | None, *, device: bool = False) -> argparse.ArgumentParser:
    """Returns a parser whose help is the script's docstring, with `--json` and, if wanted, `--device`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=result_file, help="write machine, versions and all figures to this file")
    if device:
        parser.add_argument("--device", default=torch.device("cpu"), type=_device, help="cpu (the default) or cuda")
    return parser


def result_file(text: str) -> Path:
    """Returns the path of a file, or refuses one that could not be written after hours of work."""
    try:
        check_writable(text)
    except PydriftError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


def _device(text: str) -> torch.device:
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"expected cpu or cuda, got {text!r}")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("there is no CUDA device here")
    return torch.device(text)
