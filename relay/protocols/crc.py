"""CRC-32C of two runs of bytes, one behind the other, from that of each.

A CRC is the remainder of a division of polynomials over GF(2), whose coefficients are bits, the highest first: so the bit
``1 << 31`` stands for 1, and the one below it for x. Bytes behind what was divided multiply it by a power of x (Castagnoli,
Bräuer and Herrmann, "Optimization of Cyclic Redundancy-Check Codes with 24 and 32 Parity Bits"; RFC 3720, appendix B.4).
"""

from functools import lru_cache
from typing import Final

_CASTAGNOLI: Final = 0x82F63B78
_ONE: Final = 1 << 31
_BYTE: Final = 1 << 23
"""x to the power of 8."""


def join_crc32c(first: int, second: int, second_bytes: int) -> int:
    """The CRC-32C of both, from that of each and the length of the second (bytes)."""
    return _times(first, _power(second_bytes)) ^ second


@lru_cache(maxsize=64)  # parts are of one size
def _power(count: int) -> int:
    """The remainder of x to the power of eight times ``count``."""
    power, square = _ONE, _BYTE
    while count:
        if count & 1:
            power = _times(power, square)
        square = _times(square, square)
        count >>= 1
    return power


def _times(one: int, other: int) -> int:
    """The remainder of a product."""
    product = 0
    while one:
        if one & _ONE:
            product ^= other
        one = one << 1 & 0xFFFFFFFF
        other = other >> 1 ^ (_CASTAGNOLI if other & 1 else 0)
    return product
