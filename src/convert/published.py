"""The published weight files of NASNet-A-Mobile, as far as public sources describe them, and recognizing them.

docs/weights.md shows the same facts and names the source of each.
"""
import hashlib
import os
from collections import namedtuple
from fnmatch import fnmatch

# what: the library and what is in the file. names: patterns of the file's name, the published one first. size: number
# of bytes, or None. digest: (algorithm, the first digits of the hexadecimal digest), or None. accuracy: (top-1, top-5)
# on ImageNet in percent as the library published them, or None.
Published = namedtuple('Published', 'what names size digest accuracy')

PUBLISHED = (
    Published('TF-Slim', ('model.ckpt', 'model.ckpt.index'), None, None, (74.0, 91.6)),
    Published('Keras, with its classifier', ('NASNet-mobile.h5', 'nasnet_mobile.h5'), 24227760,
              ('MD5', '020fb642bf7360b370c678b08e0adf61'), (74.4, 91.9)),
    Published('Keras, without its classifier', ('NASNet-mobile-no-top.h5', 'nasnet_mobile_no_top.h5'), 19993432,
              ('MD5', '1ed92395b5b598bdda52abe5c0dbfd63'), None),
    Published('the PyTorch port', ('nasnetamobile-7e03cead.pth', 'nasnetmobile-7e03cead.pth.tar'), None,
              ('SHA-256', '7e03cead'), (74.08, 91.74)),
    Published('MindCV', ('nasnet_a_4x1056-0fbb5cdd.ckpt',), None, ('SHA-256', '0fbb5cdd'), (73.65, 91.25)),
    Published('MindCV', ('nasnet_a_4x1056-015ba575c-910v2.ckpt',), None, ('SHA-256', '015ba575'), (74.12, 91.36)),
    Published('MindSpore Hub', ('nasnet_ascend_v1[3-9]0_imagenet2012_official_cv_top1acc74.05_top5acc91.59.ckpt',),
              None, ('SHA-256', '9f84e8d6305d05ce9bc72d62d424364b4888b217e6eb25acc0557595c9cc70c6'), (74.05, 91.59)),
)

UNKNOWN = 'not recognized: no published file (docs/weights.md) has this name or this digest'


def recognize(path):
    """Return one sentence that says which of the published files a weight file is.

    Its digest decides, whatever its name is. If no digest fits, its name says which file it is meant to be, and the
    sentence says what differs.

    Args:
        path: path of a file. For a TensorFlow V2 checkpoint it is the common prefix, or the .index file.
    """
    size, digests = _measure(path) if os.path.isfile(path) else (0, {})
    for entry in PUBLISHED:
        if entry.digest and digests and digests[entry.digest[0]].startswith(entry.digest[1]):
            return 'recognized: %s of %s (its %s is the published one)' % (entry.names[0], entry.what, entry.digest[0])
    meant = [entry for entry in PUBLISHED if any(fnmatch(os.path.basename(path), name) for name in entry.names)]
    if not meant:
        return UNKNOWN
    entry, = meant
    if entry.digest is None or not digests:
        return ('perhaps %s of %s: only the name can be compared, because neither its size nor its digest is published'
                % (entry.names[0], entry.what))
    algorithm, wanted = entry.digest
    differs = '%s %s instead of %s' % (algorithm, digests[algorithm][:len(wanted)], wanted)
    if entry.size not in (None, size):
        differs = '%d bytes instead of %d, ' % (size, entry.size) + differs
    return ('not recognized: it is called like %s of %s, but has %s; if the download was interrupted, repeat it'
            % (entry.names[0], entry.what, differs))


def _measure(path):
    """Return the number of bytes of a file and {algorithm: hexadecimal digest}."""
    digests, size = {'MD5': hashlib.md5(), 'SHA-256': hashlib.sha256()}, 0
    with open(path, 'rb') as file:
        for part in iter(lambda: file.read(1 << 20), b''):
            size += len(part)
            for digest in digests.values():
                digest.update(part)
    return size, {algorithm: digest.hexdigest() for algorithm, digest in digests.items()}
