"""A network as code that was compiled for one shape, kept on disk between processes.

`torch.compile` makes kernels of the network and what follows it; what it made is kept
under the hash of all that it depends on, so that a second start only traces. It is
code: it lies in a folder that only its user can write, and is neither read from nor
written into a model's folder. As bytes it goes from the process that made it to others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from torch import nn

from geoseg._version import __version__
from geoseg.core import user_cache
from geoseg.core.files import replacing
from geoseg.errors import ModelError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

Step = Callable[..., Any]
"""Takes and returns tensors on the device."""
Inputs = tuple[torch.Tensor, ...]

_FORMAT = 2  # of what is kept; what was kept of other formats is not used
_PLACE = "TORCHINDUCTOR_CACHE_DIR"
_READY: dict[str, Step] = {}  # the last one, so that a process traces once


class CompileError(ModelError):
    """A network cannot be compiled here; it runs without."""


def key_of(identity: str, shape: tuple[int, ...], device: str) -> str:
    """Return the name of compiled code: a hash of all that it depends on.

    Args:
        identity: Of the model, its precision and what else changes its code.
        shape: Of what goes in and comes out.
        device: Where it runs.
    """
    card = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    facts = [_FORMAT, __version__, torch.__version__, torch.version.cuda, card]
    text = json.dumps([*facts, identity, shape])
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _folder() -> Path:
    folder = user_cache.folder("compiled")
    if folder is None:
        raise CompileError(
            f"compiled code cannot be kept in {user_cache.root()}, which is not this "
            "user's own or has no room: set GEOSEG_CACHE_DIR to a folder that is"
        )
    return folder


def is_kept(key: str) -> bool:
    """Whether code of this name was compiled before."""
    folder = user_cache.folder("compiled")
    return folder is not None and (folder / key).is_file()


def kept_code(key: str) -> bytes | None:
    """Return what was compiled under this name, as bytes; None without that."""
    return (_folder() / key).read_bytes() if is_kept(key) else None


def keep_compiled(key: str, code: bytes) -> None:
    """Keep code that another process of the same run compiled.

    Raises:
        CompileError: There is no place for it.
    """
    with replacing(_folder() / key) as part:
        part.write_bytes(code)


def compiled(
    step: nn.Module,
    example: Callable[[], Inputs],
    key: str,
    check: Callable[[Step, Inputs], None],
) -> Step:
    """Return a module as compiled code, which is on disk if it was compiled before.

    Of several processes of a machine one compiles, and the others wait for it.

    Args:
        step: What is compiled.
        example: Makes tensors such as it takes.
        key: Its name, by `key_of`.
        check: Called with newly compiled code and the example; raises where it answers
            otherwise.

    Raises:
        CompileError: It cannot be compiled.
    """
    if key in _READY:
        return _READY[key]
    try:
        with FileLock(_folder() / f"{key}.lock"), _kept_at(_folder() / "kernels"):
            code = kept_code(key)
            if code is not None:
                torch.compiler.load_cache_artifacts(code)
            made, inputs = torch.compile(step, dynamic=False), example()
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # of what compiling finds odd
                made(*inputs)
            if code is None:
                check(made, inputs)
                artifacts = torch.compiler.save_cache_artifacts()
                keep_compiled(key, artifacts[0] if artifacts else b"")
    except ModelError:
        raise
    except Exception as error:
        logging.getLogger(__name__).debug("compiling failed", exc_info=True)
        raise CompileError(
            f"the network cannot be compiled ({type(error).__name__}: "
            f"{first_line(error)})"
        ) from error
    _READY.clear()
    _READY[key] = made
    return made


@contextmanager
def _kept_at(folder: Path) -> Iterator[None]:
    """Let the compiler keep its kernels in a folder, unless the user named another."""
    if _PLACE in os.environ:
        yield
        return
    os.environ[_PLACE] = str(folder)
    try:
        yield
    finally:
        del os.environ[_PLACE]
