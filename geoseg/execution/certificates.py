"""Certificates for one run, by which its scheduler, workers and client know each other.

python -m geoseg.execution.certificates FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from geoseg.errors import GeosegError, MissingExtraError, first_line


def write_certificates(folder: Path) -> None:
    """Write ca.pem, cert.pem and key.pem, which only this user can read.

    Args:
        folder: Seen by all machines of the run; made if it is not there.

    Raises:
        MissingExtraError: cryptography is not installed.
        GeosegError: The folder cannot be written.
    """
    from distributed import Security

    try:
        security = Security.temporary()
    except ImportError as error:
        raise MissingExtraError("encryption", "cryptography", "slurm") from error
    texts = {
        "ca.pem": security.tls_ca_file,
        "cert.pem": security.tls_client_cert,
        "key.pem": security.tls_client_key,
    }
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, text in texts.items():
            opened = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(opened, "w", encoding="ascii") as file:
                file.write(text)
    except OSError as error:
        raise GeosegError(
            f"certificates cannot be written into {folder}: {first_line(error)}"
        ) from error


if __name__ == "__main__":
    write_certificates(Path(sys.argv[1]))
