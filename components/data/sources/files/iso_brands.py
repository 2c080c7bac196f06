"""Brands of AVIF and HEIF files, which share the container of ISO/IEC 14496-12.

This module imports nothing: the process that decodes untrusted files loads it.
"""

AVIF_BRANDS = frozenset([b"avif", b"avis"])
HEVC_SEQUENCE_BRANDS = frozenset([b"hevc", b"hevx", b"hevm", b"hevs"])
HEVC_BRANDS = frozenset([b"heic", b"heix", b"heim", b"heis"]) | HEVC_SEQUENCE_BRANDS
CONTAINER_BRANDS = frozenset([b"mif1", b"mif2", b"msf1"])
"""Brands of the container itself, which leave the format open."""
IMAGE_BRANDS = AVIF_BRANDS | HEVC_BRANDS | CONTAINER_BRANDS
