"""The parent of the decoder process: sends files, receives pixels, restarts it if it dies."""

from __future__ import annotations

import json
import os
import shlex
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, NamedTuple

import numpy as np

from components.data.preparation import decoder
from components.data.preparation.conversion import THUMBNAIL_SIDE, DecodedImage
from components.data.preparation.decoder import LENGTH, READY, RESPONSE_HEADER
from components.data.preparation.rules import DecoderRules
from components.paths import ROOT

# Files are sent in batches of at most this many bytes. A larger file is a batch of its own.
_BATCH_BYTES = 512 << 10


class DecodeFailure(NamedTuple):
    """The reason why a file was not decoded."""

    reason: str
    detail: str


class Sandbox:
    """One decoder process, started on first use and restarted after it dies. Not thread-safe."""

    def __init__(self, rules: DecoderRules) -> None:
        self.rules = rules
        self.process: subprocess.Popen[bytes] | None = None

    def decode(self, files: Sequence[bytes]) -> Iterator[DecodedImage | DecodeFailure]:
        """Yield the outcome of each file, in order."""
        start = 0
        while start < len(files):
            stop = start + 1
            size = len(files[start])
            while stop < len(files) and size + len(files[stop]) <= _BATCH_BYTES:
                size += len(files[stop])
                stop += 1
            yield from self._decode_batch(files[start:stop])
            start = stop

    def _decode_batch(self, files: Sequence[bytes]) -> Iterator[DecodedImage | DecodeFailure]:
        done = 0
        while done < len(files):
            process = self.process = self.process or self._start()
            assert process.stdin
            assert process.stdout
            try:
                # Write the whole request first: the decoder reads all of it before it answers.
                process.stdin.write(LENGTH.pack(len(files) - done))
                process.stdin.write(struct.pack(f"<{len(files) - done}Q", *map(len, files[done:])))
                process.stdin.writelines(files[done:])
                process.stdin.flush()
                while done < len(files):
                    outcome = _read_response(process.stdout)
                    done += 1
                    yield outcome
            except (EOFError, BrokenPipeError):
                done += 1
                yield self._reap()

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: do not import from the folder of the decoder's file.
        command = [sys.executable, "-P", decoder.__file__, json.dumps(self.rules)]
        inherited = os.environ.get("PYTHONPATH")
        search_path = f"{ROOT}{os.pathsep}{inherited}" if inherited else str(ROOT)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=1 << 18,
            env={**os.environ, "PYTHONPATH": search_path},
        )
        assert process.stdout
        if process.stdout.read(len(READY)) != READY:
            # No image was sent yet, so no image is refused for this.
            raise RuntimeError(
                f"the decoder does not start (exit code {process.wait()}): {shlex.join(command)}"
            )
        return process

    def _reap(self) -> DecodeFailure:
        """Clean up after the process has died; return the failure of the image in progress."""
        assert self.process
        self.close()
        code = self.process.returncode
        self.process = None
        if code == -signal.SIGALRM:
            limit = f"preprocess.limits.decode_s ({self.rules.max_seconds:g})"
            return DecodeFailure("timeout", f"decoding takes longer than {limit}")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return DecodeFailure("crash", f"the decoder ended with {name}")

    def close(self) -> None:
        """End the process and wait for it."""
        if self.process:
            for stream in (self.process.stdin, self.process.stdout):
                assert stream
                with suppress(BrokenPipeError):
                    stream.close()
            self.process.wait()


def _read_response(stream: IO[bytes]) -> DecodedImage | DecodeFailure:
    header = RESPONSE_HEADER.unpack(_read_exactly(stream, RESPONSE_HEADER.size))
    is_image, height, width, *shape, digest, form, text_bytes, pixel_bytes = header
    if not is_image:
        return DecodeFailure(*json.loads(_read_exactly(stream, text_bytes)))
    pixels = np.frombuffer(_read_exactly(stream, pixel_bytes), np.uint8)
    thumbnail = np.frombuffer(_read_exactly(stream, THUMBNAIL_SIDE**2), np.uint8)
    return DecodedImage(
        pixels=pixels.reshape(shape),
        thumbnail=thumbnail.reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE),
        size=(height, width),
        digest=digest,
        format=form.rstrip(b"\0").decode(),
    )


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    """Read `size` bytes. Raises `EOFError` if the stream ends before."""
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
