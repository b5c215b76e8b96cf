"""Builds the compiled twins in ext/; everything else about the package is in pyproject.toml.

A build without Cython, compiler or Python headers succeeds and leaves the Python twins to do the work, said in one line.
ZMQBROKER_PURE=1 leaves the compiled twins out on purpose.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

#: Cython source -> the module that it becomes, beside its Python twin.
SOURCES = {
    "ext/_codec.pyx": "zmqbroker.wire._codec",
    "ext/_peer.pyx": "zmqbroker.wire._peer",
    "ext/_sends.pyx": "zmqbroker.wire._sends",
}
#: Those of the server, which runs on Linux.
LINUX_SOURCES = {
    "ext/_log.pyx": "zmqbroker.storage._log",
    "ext/_record.pyx": "zmqbroker.storage._record",
    "ext/_store.pyx": "zmqbroker.storage._store",
    "ext/_zmqio.pyx": "zmqbroker.server._zmqio",
}

MISSING = "zmqbroker: compiled code was left out, the slower Python twins are used instead: "


def extensions() -> list[Extension]:
    """The extension modules to build: none when they are not wanted or cannot be."""
    if os.environ.get("ZMQBROKER_PURE") == "1":
        print(MISSING + "ZMQBROKER_PURE=1 is set")
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        print(MISSING + "Cython is not installed")
        return []
    arguments = [] if sys.platform == "win32" else ["-O3", "-g0"]
    sources = SOURCES | LINUX_SOURCES if sys.platform == "linux" else SOURCES
    modules = [
        Extension(
            name, [source], include_dirs=["ext"], depends=["ext/checksum.h", "ext/lmdb_api.h"], extra_compile_args=arguments
        )
        for source, name in sources.items()
    ]
    made: list[Extension] = cythonize(
        modules, include_path=["ext"], build_dir="build/cython", compiler_directives={"language_level": 3}
    )
    for module in made:
        module.optional = True  # set here because cythonize makes new objects that do not keep it
    return made


class BuildExtensions(build_ext):
    """build_ext that goes on, and says in one line what it means, when an extension cannot be built."""

    def build_extension(self, ext: Any) -> None:
        """Build one extension. setuptools' own `optional` forgives a failed compiler but not one that is not there."""
        try:
            super().build_extension(ext)
        except (OSError, BaseError, CCompilerError) as error:
            print(f"{MISSING}{ext.name} cannot be built ({error}); gcc and python3-dev are needed for it")


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExtensions})
