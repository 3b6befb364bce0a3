"""Seeds that come from seeds: what is random belongs to a thing, and the thing is named."""

import hashlib


def derived_seed(*parts: object) -> int:
    """64 bits that depend on every part, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
