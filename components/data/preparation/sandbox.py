"""The decoder's process, seen from outside: files in, pixels out, and another process when it ends before its time."""

from __future__ import annotations

import json
import shlex
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO

import numpy as np

from components.data.preparation import decoder
from components.data.preparation.decoder import FRAME, GREY_SIDE, LENGTH, READY, Decoded, Rules

# Files go over in batches of this many bytes, or one by one if they are larger.
_BATCH = 512 << 10


class Sandbox:
    """One decoder process, started when it is needed and again after it died. Not for several threads."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.process: subprocess.Popen[bytes] | None = None

    def decode(self, files: Sequence[bytes]) -> Iterator[Decoded | tuple[str, str]]:
        """Each file's pixels, or (reason, detail) of why there are none, in order."""
        start = 0
        while start < len(files):
            stop, size = start + 1, len(files[start])
            while stop < len(files) and size + len(files[stop]) <= _BATCH:
                size += len(files[stop])
                stop += 1
            yield from self._batch(files[start:stop])
            start = stop

    def _batch(self, files: Sequence[bytes]) -> Iterator[Decoded | tuple[str, str]]:
        done = 0
        while done < len(files):
            process = self.process = self.process or self._start()
            assert process.stdin
            assert process.stdout
            try:
                # Whole before anything is read: the decoder reads all of a request before it answers.
                process.stdin.write(LENGTH.pack(len(files) - done))
                process.stdin.write(struct.pack(f"<{len(files) - done}Q", *map(len, files[done:])))
                process.stdin.writelines(files[done:])
                process.stdin.flush()
                while done < len(files):
                    found = _receive(process.stdout)
                    done += 1
                    yield found
            except (EOFError, BrokenPipeError):
                done += 1
                yield self._bury()

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: the folder of that file is no place to import from.
        command = [sys.executable, "-P", decoder.__file__, json.dumps(self.rules)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=1 << 18
        )
        assert process.stdout
        if process.stdout.read(len(READY)) != READY:
            # No image is to blame for that.
            raise RuntimeError(f"the decoder does not start (exit code {process.wait()}): {shlex.join(command)}")
        return process

    def _bury(self) -> tuple[str, str]:
        """Why the process ended, at the image that it was at."""
        assert self.process
        self.close()
        code = self.process.returncode
        self.process = None
        if code == -signal.SIGALRM:
            return "timeout", f"decoding takes longer than preprocess.limits.decode_s ({self.rules.seconds:g})"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return "crash", f"the decoder ended with {name}"

    def close(self) -> None:
        if self.process:
            for stream in (self.process.stdin, self.process.stdout):
                assert stream
                with suppress(BrokenPipeError):
                    stream.close()
            self.process.wait()


def _receive(stream: IO[bytes]) -> Decoded | tuple[str, str]:
    head = _exactly(stream, FRAME.size)
    good, height, width, *shape, digest, form, text, pixels = FRAME.unpack(head)
    if not good:
        reason, detail = json.loads(_exactly(stream, text))
        return reason, detail
    data = np.frombuffer(_exactly(stream, pixels), np.uint8).reshape(shape)
    grey = np.frombuffer(_exactly(stream, GREY_SIDE**2), np.uint8).reshape(GREY_SIDE, GREY_SIDE)
    return Decoded(data, grey, (height, width), digest, form.rstrip(b"\0").decode())


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
