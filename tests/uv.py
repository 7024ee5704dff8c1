"""The uv with which tests build and install, as the Makefile finds it."""

import os
import shutil
import ssl
from pathlib import Path

OURS = Path(__file__).parents[1] / ".tools/uv/bin/uv"
UV = os.environ.get("UV") or shutil.which("uv") or str(OURS)
STORE = ssl.get_default_verify_paths()
# As the Makefile's second try: only the system's store knows a network whose proxy signs itself.
HAS_STORE = Path(STORE.openssl_cafile).exists() or Path(STORE.openssl_capath).exists()
CERTIFICATES = {"UV_SYSTEM_CERTS": "true"} if HAS_STORE else {}
