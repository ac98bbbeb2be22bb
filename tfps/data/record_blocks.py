"""Reads whole records of a TFRecord file. No TensorFlow.

A record is its length (8 bytes), a checksum of the length (4), its data, and a checksum of the data (4). Both checksums
are CRC-32C, masked as TensorFlow does. Where the C++ ops split records, they check both. Here those of the data need
google-crc32c, which tfps[storage] brings; without it the lengths alone are checked, which finds a file that was cut or
mixed up, but not a changed byte within a record, unless the caller doubts the file.

Threading: any thread.
"""

import dataclasses
import functools
import logging
import struct
from collections.abc import Callable

from tfps.data.lines import Read
from tfps.data.parts import Part
from tfps.data.stored_files import broken

_LOG = logging.getLogger("tfps")

_HEAD, _FOOT = struct.Struct("<QI"), struct.Struct("<I")
_HEAD_BYTES, _FOOT_BYTES = _HEAD.size, _FOOT.size
_POLYNOMIAL = 0x82F63B78


@dataclasses.dataclass(frozen=True)
class Records:
    """Some records.

    Args:
        records: the data of each.
        next: the offset of the next record; -1 at the end of the file.
    """

    records: list[bytes]
    next: int


def read_records(part: Part, offset: int, most_bytes: int, read: Read, is_doubtful: bool = False) -> Records:
    """Returns the next records of a file, at least one unless it has ended.

    Args:
        part: a whole file.
        offset: the offset of a record.
        most_bytes: about the number of bytes to read.
        read: reads the file.
        is_doubtful: whether the checksums of the data are compared also where that is slow.

    Raises:
        SourceError: the file is broken.
    """
    data, is_end = read_whole(part, offset, most_bytes, read)
    checksum = _fast_checksum() or (_checksum if is_doubtful else None)
    if checksum is None:
        _tell_once()
    records, at = _parse(part, offset, data, checksum)
    if is_end and at < len(data):
        raise broken(
            part.file, f"byte {offset + at}", f"a record is cut: {len(data) - at} bytes are left, which are too few"
        )
    return Records(records, -1 if is_end else offset + at)


def read_whole(part: Part, offset: int, most_bytes: int, read: Read) -> tuple[bytes, bool]:
    """Reads some bytes of a file, with one whole record at least if the file has not ended or is cut.

    Args:
        part: a whole file.
        offset: the offset of a record.
        most_bytes: about the number of bytes to read.
        read: reads the file.

    Returns:
        The bytes from `offset` on, and whether the file ends with them.

    Raises:
        SourceError: no record begins there.
    """
    # The length of a record at least.
    most_bytes = max(most_bytes, _HEAD_BYTES)
    data = read(offset, offset + most_bytes)
    if len(data) < most_bytes:
        return data, True
    wanted = _HEAD_BYTES + _length(part, offset, data, 0) + _FOOT_BYTES
    if wanted > len(data):
        # One record is longer than what is read at a time.
        data += read(offset + len(data), offset + wanted)
    return data, len(data) < wanted


def _parse(part: Part, offset: int, data: bytes, checksum: Callable[[bytes], int] | None) -> tuple[list[bytes], int]:
    """Returns the whole records in some bytes, and where they end. Without `checksum` their data is not checked."""
    records: list[bytes] = []
    at, size = 0, len(data)
    while size - at >= _HEAD_BYTES:
        begin = at + _HEAD_BYTES
        end = begin + _length(part, offset, data, at)
        if end + _FOOT_BYTES > size:
            break
        record = data[begin:end]
        if checksum is not None and _FOOT.unpack_from(data, end)[0] != _mask(checksum(record)):
            raise broken(part.file, f"byte {offset + at}", "the checksum of a record is wrong")
        records.append(record)
        at = end + _FOOT_BYTES
    return records, at


def _length(part: Part, offset: int, data: bytes, at: int) -> int:
    """Returns the length of the record that begins at a place in some bytes.

    Args:
        part: the file, for messages.
        offset: the offset of the bytes in it, for messages.
        data: the bytes.
        at: the place.
    """
    if len(data) - at < _HEAD_BYTES:
        left = len(data) - at
        raise broken(part.file, f"byte {offset + at}", f"{left} bytes are left, which are too few for a record")
    length, stored = _HEAD.unpack_from(data, at)
    if stored != _mask((_fast_checksum() or _checksum)(data[at : at + 8])):
        reason = "the checksum of a length is wrong; no record of TFRecord begins here"
        raise broken(part.file, f"byte {offset + at}", reason)
    return int(length)


def _mask(checksum: int) -> int:
    # TensorFlow masks checksums, so that one of data that has checksums in it is not weak.
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _checksum(data: bytes) -> int:
    table = _table()
    value = 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


@functools.cache
def _table() -> tuple[int, ...]:
    def entry(byte: int) -> int:
        for _ in range(8):
            byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)
        return byte

    return tuple(entry(byte) for byte in range(256))


@functools.cache
def _fast_checksum() -> Callable[[bytes], int] | None:
    """Returns a fast checksum; None if there is none here."""
    try:
        import google_crc32c
    except ImportError:
        return None
    value: Callable[[bytes], int] = google_crc32c.value
    return value


@functools.cache
def _tell_once() -> None:
    _LOG.info("the checksums of the data of records are not checked; pip install google-crc32c does that.")
