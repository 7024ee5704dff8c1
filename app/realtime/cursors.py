"""Stream cursors: a position in the log for one feed, opaque to clients."""

import base64
import binascii
import hashlib
import os
import struct
from typing import NamedTuple
from uuid import UUID

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

# Epoch, the position's upper and lower part (48 bits), the feed's check, a nonce.
LAYOUT = struct.Struct(">HHI5s3s")


class Position(NamedTuple):
    """A place in one epoch of the log."""

    epoch: int
    pos: int


class Cursors:
    """Encrypts positions, which in the clear would tell each tenant everybody's event rate.

    One AES block (16 bytes, 22 characters): epoch, position, a check of the feed and a nonce, so
    that two cursors of one position differ. ECB, as no block is ever part of a longer text.
    """

    def __init__(self, key: bytes) -> None:
        cipher = Cipher(AES256(key), ECB())
        self.encryptor = cipher.encryptor()
        self.decryptor = cipher.decryptor()

    def write(self, feed_id: UUID, epoch: int, pos: int) -> str:
        """Encrypt a position of a feed."""
        place = LAYOUT.pack(
            epoch & 0xFFFF, pos >> 32, pos & 0xFFFFFFFF, check_of(feed_id), os.urandom(3)
        )
        return base64.urlsafe_b64encode(self.encryptor.update(place))[:22].decode()

    def read(self, feed_id: UUID, cursor: str) -> Position | None:
        """Decrypt a cursor; None for one that this key did not write, or not for this feed."""
        try:
            block = base64.b64decode(cursor + "==", altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        if len(block) != LAYOUT.size:
            return None
        epoch, upper, lower, check, _ = LAYOUT.unpack(self.decryptor.update(block))
        return Position(epoch, upper << 32 | lower) if check == check_of(feed_id) else None


def check_of(feed_id: UUID) -> bytes:
    """Shorten a feed's id to five bytes."""
    return hashlib.blake2s(feed_id.bytes, digest_size=5).digest()
