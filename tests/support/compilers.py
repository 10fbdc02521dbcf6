"""C++ compilers with a fault."""

import shutil


def hanging(folder, when):
    """A compiler that starts another program and waits for ever, where its arguments hold a word."""
    real = shutil.which("g++") or shutil.which("clang++")
    compiler = folder / "g++"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in {when}) sleep 1000;; esac\nexec {real} "$@"\n')
    compiler.chmod(0o700)
    return str(compiler)
