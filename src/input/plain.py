"""A copy of a JPEG or a PNG that holds only what its pixels need.

A profile, a comment or a version number can be wrong, and a library then refuses or reports a file whose pixels are
all there. Such a copy has no metadata. The libraries decode it, so nothing here decides about a pixel.
"""
import re
import struct
import zlib

EOI, SOS, APP0, APP14 = 0xd9, 0xda, 0xe0, 0xee              # JPEG markers
METADATA = tuple(range(0xe0, 0xf0)) + (0xfe,)                   # of applications, and comments
WITHOUT_LENGTH = (0x01,) + tuple(range(0xd0, 0xd9))
FRAMES = tuple(code for code in range(0xc0, 0xd0) if code not in (0xc4, 0xc8, 0xcc))
SEQUENTIAL = (0xc0, 0xc1, 0xc9)     # frames whose scans always hold all 64 coefficients
_MARKER = re.compile(b'\xff[\x01-\xfe]')                        # Bytes before a marker are skipped, as libjpeg does.
_END_OF_SCAN = re.compile(b'\xff[\x01-\xcf\xd8-\xfe]')         # Restart markers belong to the scan.
PADDING = 4         # Three random bytes after the first one equal it once in 16 million times.
PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'


def plain_jpeg(data, padding=True):
    """Copy a JPEG without its metadata and without bytes between its segments or after its end.

    Two segments of applications say how colours are stored. They stay, in the form that libjpeg takes them for: a
    JFIF version is 1.1, and an unknown colour transform of Adobe is the one that libjpeg assumes. The scans of a
    sequential JPEG get the only parameters that they can have.

    Args:
        data: all bytes of a file that begins like a JPEG.
        padding: False: of the last scan, a run of PADDING or more equal bytes at its end is left out too. Some
            writers fill a file up in this way. Damage also leaves bytes that the decoder does not need, but these are
            not all equal, or the decoder needs a part of them.

    Returns:
        bytes. They end where the segments of `data` end. So a damaged file stays one.
    """
    segments, end = _segments(data)
    frame, components = next(((code, body[5]) for code, body, _ in segments if code in FRAMES and len(body) > 5),
                             (None, None))
    parts = [b'\xff\xd8']
    for number, (code, body, scan) in enumerate(segments):
        if code in METADATA:
            body = _colours(code, body, components)
            if body is None:
                continue
        if code == SOS:
            if frame in SEQUENTIAL:
                body = body[:-3] + b'\0\x3f\0'
            if not padding and number == len(segments) - 1:
                needed = scan.rstrip(scan[-1:])
                scan = needed if len(scan) - len(needed) >= PADDING else scan
        length = b'' if code in WITHOUT_LENGTH else struct.pack('>H', len(body) + 2)
        parts += [bytes((0xff, code)), length, body, scan]
    return b''.join(parts + [end])


def _segments(data):
    """Split a JPEG after its first two bytes.

    Returns:
        ([(marker, body without the two bytes of its length, entropy-coded bytes after it)], the end marker). If the
        file has no end marker, or a segment of an impossible length, the bytes from there on take its place.
    """
    segments, position = [], 2
    while True:
        found = _MARKER.search(data, position)
        if found is None:
            return segments, data[position:]
        code, position = data[found.end() - 1], found.end()
        if code == EOI:
            return segments, data[found.start():position]
        body = scan = b''
        if code not in WITHOUT_LENGTH:
            length = int.from_bytes(data[position:position + 2], 'big')
            if length < 2 or position + length > len(data):
                return segments, data[found.start():]
            body = data[position + 2:position + length]
            position += length
        if code == SOS:
            end = _END_OF_SCAN.search(data, position)
            scan = data[position:end.start() if end else None]
            position += len(scan)
        segments.append((code, body, scan))


def _colours(code, body, components):
    """The body of a segment that says how colours are stored, as libjpeg understands it; None: it says nothing."""
    if code == APP0 and body.startswith(b'JFIF\0') and len(body) >= 14:
        return body[:5] + b'\1\1' + body[7:]
    if code == APP14 and body.startswith(b'Adobe') and len(body) >= 12:
        transform = {3: 1, 4: 2}.get(components, 0)     # from YCbCr, from YCCK; 0 is none
        return body if body[11] in (0, transform) else body[:11] + bytes([transform]) + body[12:]
    return None


def plain_png(data):
    """Copy a PNG without metadata, without bytes after its end, and without the further pictures of an animation.

    Args:
        data: all bytes of a file that begins with PNG_SIGNATURE.

    Returns:
        bytes.

    Raises:
        ValueError: the file ends before its end chunk, or the checksum of a chunk that stays is wrong. Pillow notices
            neither when it decodes.
    """
    parts, position, kind = [PNG_SIGNATURE], len(PNG_SIGNATURE), None
    while kind != b'IEND':
        length, kind = struct.unpack('>I4s', data[position:position + 8].ljust(8, b'\0'))
        chunk = data[position:position + length + 12]
        if len(chunk) < length + 12:
            raise ValueError('truncated or corrupt PNG (it ends in a chunk)')
        position += len(chunk)
        if kind[0] & 0x20:      # By its first letter, which is small, a decoder may leave this chunk out.
            continue
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], 'big'):
            raise ValueError('truncated or corrupt PNG (wrong checksum of chunk %r)' % kind.decode('latin-1'))
        parts.append(chunk)
    return b''.join(parts)
