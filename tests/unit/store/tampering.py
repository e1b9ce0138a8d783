"""Ways to tamper with a signed block: each a name, what it does to a copy, and the one error that must come of it.

A kind of ``FOLDERS`` changes the block's directory, one of ``ARCHIVES`` writes an archive. ``rng`` is seeded by kind and variation.
"""

from __future__ import annotations

import base64
import gzip
import io
import os
import random
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clonedna.core.block import Manifest
from clonedna.core.canonical import canonical, sha256, strict_json
from clonedna.core.errors import (
    BlockCorrupt,
    BlockUnsigned,
    BlockUntrusted,
    DnaError,
    KeyCompromised,
    KeyWeak,
    SignatureInvalid,
)
from clonedna.store.blocks import CONTENT, LIMITS, PAYLOAD_TYPE
from clonedna.store.files import measure
from clonedna.trust.keys import LOW_ORDER_Y, PRIME, KeyRing, Record
from tests.unit.store.making import manifest, weights

EPOCH = (1980, 1, 1, 0, 0, 0)
ORDER = 2**252 + 27742317777372353535851937790883648493  # of edwards25519's prime subgroup (RFC 8032, 5.1)
FILES = sorted(LIMITS)
MANIFEST, SIGNATURE, WEIGHTS = "manifest.json", "signature.json", "adapter_model.safetensors"


@dataclass
class World:
    """A copy to spoil, what a forger may have beside it, and chance."""

    block: Path
    other: Path  # another block by the same signer
    ring: KeyRing  # trusted
    stranger: KeyRing
    lost: KeyRing  # trusted once; this machine knows that its first key was compromised
    lost_key: KeyRing  # the thief's copy of it
    trusted: Path  # the folder of trust records, for slipped-in keys
    elsewhere: Path
    rng: random.Random

    def file(self) -> str:
        return self.rng.choice(FILES)

    def spoil(self, name: str, change: Callable[[bytes], bytes]) -> None:
        path = self.block / name
        path.write_bytes(change(path.read_bytes()))

    def envelope(self, change: Callable[[dict[str, Any]], object]) -> None:
        fields = strict_json((self.block / SIGNATURE).read_bytes())
        change(fields)
        (self.block / SIGNATURE).write_bytes(canonical(fields))

    def signature(self, change: Callable[[dict[str, Any]], object]) -> None:
        self.envelope(lambda e: change(e["signatures"][0]))

    def sign(self, ring: KeyRing, data: bytes) -> None:
        """Sign anything as the manifest."""
        (self.block / MANIFEST).write_bytes(data)
        (self.block / SIGNATURE).write_bytes(canonical(ring.sign(data, PAYLOAD_TYPE)))

    def resign(self, ring: KeyRing, **changes: object) -> None:
        """Sign the files as they are now, past every check of ``pack``."""
        table = {name: measure(self.block / name, LIMITS[name]) for name in CONTENT}
        self.sign(ring, canonical({**manifest(table, ring.key_id).model_dump(mode="json"), **changes}))


Act = Callable[[World], object]
Errors = tuple[type[DnaError], ...]
FOLDERS: dict[str, tuple[Act, Errors]] = {}
ARCHIVES: dict[str, tuple[Callable[[World, Path], object], Errors]] = {}


def folder(name: str, act: Act, *errors: type[DnaError]) -> None:
    assert name not in FOLDERS
    FOLDERS[name] = act, errors or (BlockCorrupt,)


def flip(rng: random.Random, data: bytes) -> bytes:
    spoilt = bytearray(data)
    spoilt[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def edited(rng: random.Random, value: Any) -> Any:
    """Another value of about the same shape."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + rng.randint(1, 1000)
        case str():
            place = rng.randint(0, len(value))
            return value[:place] + rng.choice("0aZ-. é") + value[place:]
        case list():
            return [*value, rng.choice(["x", "y"])]
        case dict() if value:
            key = rng.choice(sorted(value))
            return {**value, key: edited(rng, value[key])}
        case None:
            return rng.choice(["x", 1, True])
        case _:
            return {"x": 1}


# The files of a block.

for one in FILES:
    many = (BlockCorrupt, SignatureInvalid, BlockUntrusted) if one == SIGNATURE else (BlockCorrupt,)
    folder(f"one bit of {one}", lambda w, n=one: w.spoil(n, lambda d: flip(w.rng, d)), *many)
    folder(f"{one} cut short", lambda w, n=one: w.spoil(n, lambda d: d[: w.rng.randrange(len(d))]))
    folder(f"{one} with more behind", lambda w, n=one: w.spoil(n, lambda d: d + w.rng.randbytes(w.rng.randint(1, 9))))
    folder(f"{one} of another block", lambda w, n=one: shutil.copy(w.other / n, w.block / n))
    folder(
        f"{one} removed", lambda w, n=one: (w.block / n).unlink(), BlockUnsigned if one == SIGNATURE else BlockCorrupt
    )
    folder(f"{one} over its limit", lambda w, n=one: os.truncate(w.block / n, LIMITS[n] + w.rng.randint(1, 10**9)))


def replaced(make: Callable[[World, Path, Path], object]) -> Act:
    """Some file moved away, and something else in its place."""

    def act(w: World) -> None:
        path, away = w.block / w.file(), w.elsewhere / f"away-{w.rng.random()}"
        path.rename(away)
        make(w, path, away)

    return act


folder("a symbolic link to the very file", replaced(lambda w, path, away: path.symlink_to(away)))
folder("a hard link to the very file", replaced(lambda w, path, away: path.hardlink_to(away)))
folder("a link that leads nowhere", replaced(lambda w, path, away: path.symlink_to(w.elsewhere / "nothing")))
folder("a directory in place of a file", replaced(lambda w, path, away: path.mkdir()))
folder("a pipe in place of a file", replaced(lambda w, path, away: os.mkfifo(path)))
folder("a file under another case", replaced(lambda w, path, away: away.rename(path.with_name(path.name.swapcase()))))


def swap(w: World) -> None:
    a, b = w.rng.sample(FILES, 2)
    first, second = (w.block / a).read_bytes(), (w.block / b).read_bytes()
    (w.block / a).write_bytes(second)
    (w.block / b).write_bytes(first)


def added(name: Callable[[World], str]) -> Act:
    return lambda w: (w.block / name(w)).write_bytes(w.rng.randbytes(w.rng.randint(0, 20)))


CONFUSABLE = {
    "a": "\u0430",
    "e": "\u0435",
    "o": "\u043e",
    "i": "\u0456",
    "s": "\u0455",
    "p": "\u0440",
    "R": "\uff32",
    "E": "\u0395",
}
folder("two files swapped", swap)
folder("a file added", added(lambda w: f"{w.rng.randrange(10**9)}.{w.rng.choice(['py', 'bin', 'pt', 'so', 'txt'])}"))
folder("a hidden file added", added(lambda w: f".{w.rng.randrange(10**9)}"))
folder("a name that differs by case", added(lambda w: w.file().swapcase()))
folder("a name with one look-alike letter", added(lambda w: confusable(w)))
folder(
    "a name with an invisible letter",
    added(lambda w: w.file() + w.rng.choice(["\u200b", "\u200d", "\ufeff", "\u2060"])),
)
folder("a name with a space or dot behind", added(lambda w: w.file() + w.rng.choice([" ", ".", "\t", "\n"])))
folder("a name with a combining mark", added(lambda w: w.file() + chr(w.rng.randrange(0x300, 0x330))))
folder("a folder added", lambda w: (w.block / f"d{w.rng.randrange(10**6)}").mkdir())


def confusable(w: World) -> str:
    name = w.file()
    letter = w.rng.choice([c for c in name if c in CONFUSABLE])
    return name.replace(letter, CONFUSABLE[letter], 1)


# The manifest, field by field, with the old signature; and in the envelope as well.

for field in Manifest.model_fields:

    def edit(w: World, name: str = field) -> None:
        fields = strict_json((w.block / MANIFEST).read_bytes())
        fields[name] = edited(w.rng, fields[name])
        (w.block / MANIFEST).write_bytes(canonical(fields))

    folder(f"manifest: {field} edited", edit)


def edit_both(w: World) -> None:
    fields = strict_json((w.block / MANIFEST).read_bytes())
    name = w.rng.choice(sorted(fields))
    fields[name] = edited(w.rng, fields[name])
    (w.block / MANIFEST).write_bytes(canonical(fields))
    w.envelope(lambda e: e.update(payload=base64.b64encode(canonical(fields)).decode()))


def from_other(w: World) -> None:
    for name in (MANIFEST, SIGNATURE):
        shutil.copy(w.other / name, w.block / name)


folder("manifest edited in the envelope too", edit_both, SignatureInvalid)
folder("manifest and signature of another block", from_other)
folder(
    "manifest indented", lambda w: w.spoil(MANIFEST, lambda d: d.replace(b",", b",\n" + b" " * w.rng.randint(0, 9), 1))
)

# Who signed.


def claim(w: World) -> None:
    w.resign(w.stranger)
    w.signature(lambda s: s.update(keyid=w.ring.key_id))


def content_and_claim(w: World) -> None:
    w.spoil(w.rng.choice(CONTENT), lambda d: flip(w.rng, d))
    w.resign(w.stranger, created_by=w.ring.key_id)
    w.signature(lambda s: s.update(keyid=w.ring.key_id))


def weak(w: World, encodings: list[int], *, slipped: bool) -> None:
    raw = (w.rng.choice(encodings) | w.rng.getrandbits(1) << 255).to_bytes(32, "little")
    if slipped:
        (w.trusted / f"{sha256(raw)}.json").write_bytes(canonical(Record(trusted=True, key=raw.hex())))
    w.signature(
        lambda s: s.update(keyid=sha256(raw), sig=base64.b64encode((1).to_bytes(32, "little") + bytes(32)).decode())
    )


LOW = sorted(LOW_ORDER_Y)
LOW_TWICE = [y + PRIME for y in LOW if y + PRIME < 2**255]
folder("signed by a stranger", lambda w: w.resign(w.stranger, tags=[str(w.rng.random())]), BlockUntrusted)
folder("signed by a stranger who claims the trusted key", claim, SignatureInvalid)
folder("content changed by a stranger who claims the trusted key", content_and_claim, SignatureInvalid)
folder("signed with a stolen key", lambda w: w.resign(w.lost_key, tags=[str(w.rng.random())]), KeyCompromised)
folder("a low-order key that nobody trusts", lambda w: weak(w, LOW, slipped=False), BlockUntrusted)
folder("a low-order key slipped in", lambda w: weak(w, LOW, slipped=True), KeyWeak)
folder("a low-order key in another encoding, slipped in", lambda w: weak(w, LOW_TWICE, slipped=True), KeyWeak)
folder("a key in an encoding that is not canonical, slipped in",
       lambda w: weak(w, [w.rng.randrange(PRIME, 2**255)], slipped=True), KeyWeak)  # fmt: skip

# The envelope.


def sig(change: Callable[[World, bytes], bytes]) -> Act:
    return lambda w: w.signature(
        lambda s: s.update(sig=base64.b64encode(change(w, base64.b64decode(s["sig"]))).decode())
    )


def malleable(w: World, raw: bytes) -> bytes:
    """S + L: the same signature to a reader that does not insist on S < L (RFC 8032, 5.1.7)."""
    return raw[:32] + ((int.from_bytes(raw[32:], "little") + ORDER) % 2**256).to_bytes(32, "little")


def spaced(w: World, text: str) -> str:
    place = w.rng.randint(0, len(text))
    return text[:place] + w.rng.choice([" ", "\n", "\t", "\r\n"]) + text[place:]


def spare_bits(text: str) -> str:
    """The bits of the last letter that base64 leaves unused."""
    return text[:-3] + chr(ord(text[-3]) + 1) + "=="


def other_type(w: World) -> str:
    return w.rng.choice(["", "application/json", "application/vnd.clonedna.consent+json", "application/vnd.clonedna.keylog+json",
                         PAYLOAD_TYPE.upper(), PAYLOAD_TYPE + " ", PAYLOAD_TYPE[:-1]])  # fmt: skip


def duplicate(w: World, data: bytes) -> bytes:
    key = w.rng.choice([b'"payload":"e30="', b'"payloadType":"x"', b'"signatures":[]'])
    return b"{" + key + b"," + data[1:] if w.rng.random() < 0.5 else data[:-1] + b"," + key + b"}"


folder("payload type changed", lambda w: w.envelope(lambda e: e.update(payloadType=other_type(w))), SignatureInvalid)
folder(
    "payload with white space",
    lambda w: w.envelope(lambda e: e.update(payload=spaced(w, e["payload"]))),
    SignatureInvalid,
)
folder(
    "signature with white space", lambda w: w.signature(lambda s: s.update(sig=spaced(w, s["sig"]))), SignatureInvalid
)
folder(
    "signature in another base64", lambda w: w.signature(lambda s: s.update(sig=spare_bits(s["sig"]))), SignatureInvalid
)
folder(
    "signature without padding", lambda w: w.signature(lambda s: s.update(sig=s["sig"].rstrip("="))), SignatureInvalid
)
folder("key id of nobody", lambda w: w.signature(lambda s: s.update(keyid=w.rng.randbytes(32).hex())), BlockUntrusted)
folder("key id in capitals", lambda w: w.signature(lambda s: s.update(keyid=s["keyid"].upper())), BlockUntrusted)
folder(
    "key id that is a path",
    lambda w: w.signature(lambda s: s.update(keyid="../" * w.rng.randint(1, 9) + s["keyid"])),
    BlockUntrusted,
)
folder(
    "key id cut short",
    lambda w: w.signature(lambda s: s.update(keyid=s["keyid"][: w.rng.randrange(64)])),
    BlockUntrusted,
)
folder("duplicate keys in the envelope", lambda w: w.spoil(SIGNATURE, lambda d: duplicate(w, d)))
folder("a field more in the envelope", lambda w: w.envelope(lambda e: e.update({f"x{w.rng.random()}": 1})))
folder("a field more in the signature", lambda w: w.signature(lambda s: s.update({f"x{w.rng.random()}": "1"})))
folder("a field less in the envelope", lambda w: w.envelope(lambda e: e.pop(w.rng.choice(sorted(e)))))
folder("a field less in the signature", lambda w: w.signature(lambda s: s.pop(w.rng.choice(sorted(s)))))
folder(
    "a field of another type",
    lambda w: w.envelope(lambda e: e.update({w.rng.choice(sorted(e)): w.rng.choice([1, None, True])})),
)
folder("no signature in the envelope", lambda w: w.envelope(lambda e: e.update(signatures=[])))
folder(
    "the signature twice", lambda w: w.envelope(lambda e: e.update(signatures=e["signatures"] * w.rng.randint(2, 9)))
)
folder(
    "an envelope with white space",
    lambda w: w.spoil(SIGNATURE, lambda d: d.replace(b":", b":" + b" " * w.rng.randint(1, 9), 1)),
)
folder("an envelope with a byte-order mark", lambda w: w.spoil(SIGNATURE, lambda d: b"\xef\xbb\xbf" + d))
folder("an envelope nested deeply", lambda w: w.spoil(SIGNATURE, lambda d: b"[" * w.rng.randint(10_000, 200_000)))
folder(
    "an envelope that is no object",
    lambda w: w.spoil(SIGNATURE, lambda d: w.rng.choice([b"[]", b"null", b"1", b'"x"', b"NaN"])),
)
folder("a signature of zeros", sig(lambda w, raw: bytes(64)), SignatureInvalid)
folder("a signature at random", sig(lambda w, raw: w.rng.randbytes(64)), SignatureInvalid)
folder("a signature of another length", sig(lambda w, raw: raw[: w.rng.randrange(64)]), SignatureInvalid)
folder("a signature with L added to S", sig(malleable), SignatureInvalid)
folder("a signature whose halves are swapped", sig(lambda w, raw: raw[32:] + raw[:32]), SignatureInvalid)

# A trusted but careless signer.


def bad_weights(make: Callable[[World, bytes], bytes]) -> Act:
    def act(w: World) -> None:
        w.spoil(WEIGHTS, lambda d: make(w, d))
        w.resign(w.ring)

    return act


def tensor(begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4], "data_offsets": [begin, end]}


folder("signed: safetensors cut short", bad_weights(lambda w, d: d[: w.rng.randrange(len(d))]))
folder("signed: safetensors with more behind", bad_weights(lambda w, d: d + bytes(w.rng.randint(1, 99))))
folder(
    "signed: safetensors with a huge header",
    bad_weights(lambda w, d: w.rng.randrange(2**23, 2**63).to_bytes(8, "little") + d[8:]),
)
folder(
    "signed: safetensors with a hole",
    bad_weights(lambda w, d: weights(bytes(4 * (n := w.rng.randint(2, 9))), a=tensor(4, 4 * n))),
)
folder(
    "signed: safetensors with an overlap",
    bad_weights(lambda w, d: weights(bytes(16), a=tensor(0, 12), b=tensor(4 * w.rng.randint(0, 2), 16))),
)
folder(
    "signed: pickle in place of safetensors", bad_weights(lambda w, d: b"\x80" + w.rng.randbytes(w.rng.randint(40, 90)))
)
folder("signed: a manifest with a field more", lambda w: w.resign(w.ring, **{f"x{w.rng.randrange(99)}": 1}))
folder("signed: a manifest with another id", lambda w: w.resign(w.ring, id=w.rng.randbytes(32).hex()))
folder("signed: a manifest by somebody else", lambda w: w.resign(w.ring, created_by=w.stranger.key_id))
folder("signed: a manifest of a future format", lambda w: w.resign(w.ring, format=f"dna/{w.rng.randint(2, 99)}"))
folder("signed: a name that is a path", lambda w: w.resign(w.ring, name="../" * w.rng.randint(1, 5) + "ada"))

# Archives.

Entry = tuple[zipfile.ZipInfo, bytes]


def entries(w: World) -> list[Entry]:
    return [(zipfile.ZipInfo(name, EPOCH), (w.block / name).read_bytes()) for name in FILES]


def zipped(path: Path, made: list[Entry], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        for info, data in made:
            info.compress_type = method
            file.writestr(info, data)


def archive(name: str, change: Callable[[World, list[Entry]], object], method: int = zipfile.ZIP_STORED) -> None:
    def act(w: World, path: Path) -> None:
        made = entries(w)
        change(w, made)
        zipped(path, made, method)

    ARCHIVES[f"archive: {name}"] = act, (BlockCorrupt,)


def rewritten(name: str, change: Callable[[World, bytes], bytes]) -> None:
    def act(w: World, path: Path) -> None:
        zipped(path, entries(w))
        path.write_bytes(change(w, path.read_bytes()))

    ARCHIVES[f"archive: {name}"] = act, (BlockCorrupt,)


def put(w: World, made: list[Entry], name: str) -> None:
    """An entry more, or one in place of another."""
    entry = (zipfile.ZipInfo(name, EPOCH), w.rng.randbytes(5))
    place = w.rng.randrange(len(made))
    made[place : place + w.rng.randint(0, 1)] = [entry]


def attribute(kind: int) -> Callable[[World, list[Entry]], object]:
    def change(w: World, made: list[Entry]) -> None:
        info = w.rng.choice(made)[0]
        info.create_system, info.external_attr = 3, (kind | 0o777) << 16

    return change


def headers(data: bytes, magic: bytes) -> list[int]:
    """Where records begin that hold the name of a block's file."""
    size = 30 if magic == b"PK\x03\x04" else 46
    at = [i for i in range(len(data)) if data.startswith(magic, i)]
    return [i for i in at if any(data.startswith(name.encode(), i + size) for name in FILES)]


def central(offset: int, value: Callable[[World], bytes]) -> Callable[[World, bytes], bytes]:
    """Some field of some central record."""

    def change(w: World, data: bytes) -> bytes:
        spoilt, new = bytearray(data), value(w)
        at = w.rng.choice(headers(data, b"PK\x01\x02")) + offset
        spoilt[at : at + len(new)] = new
        return bytes(spoilt)

    return change


def renamed_locally(w: World, data: bytes) -> bytes:
    """The local header gives another name than the directory."""
    at = w.rng.choice(headers(data, b"PK\x03\x04")) + 30
    return data[:at] + b"X" + data[at + 1 :]


def shuffled(w: World, made: list[Entry]) -> None:
    before = list(made)
    while made == before:
        w.rng.shuffle(made)


def spoilt(w: World, made: list[Entry]) -> None:
    place = w.rng.choice([i for i, (info, _) in enumerate(made) if info.filename in CONTENT])
    made[place] = (made[place][0], flip(w.rng, made[place][1]))


def bomb(w: World, made: list[Entry]) -> None:
    name = w.rng.choice(["README.md", "profile.md", "consent.json", "adapter_config.json"])
    place = FILES.index(name)
    made[place] = (made[place][0], bytes(LIMITS[name] + w.rng.randint(1, 10**5)))


def tarred(w: World, data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for info, content in entries(w):
            member = tarfile.TarInfo(info.filename)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return out.getvalue() + w.rng.randbytes(w.rng.randint(0, 3))


def up(w: World) -> str:
    return "../" * w.rng.randint(1, 6) + w.rng.choice(["evil", ".ssh/authorized_keys", "README.md"])


archive("a name that leads upwards", lambda w, made: put(w, made, up(w)))
archive(
    "an absolute name", lambda w, made: put(w, made, w.rng.choice(["/etc/passwd", "/tmp/x", "//x/y", f"/{w.file()}"]))
)
archive(
    "a name for Windows", lambda w, made: put(w, made, w.rng.choice(["C:\\x", "..\\x", "\\\\x\\y", "C:x"]) + w.file())
)
archive("a name in a folder", lambda w, made: put(w, made, f"{w.rng.choice(['a', '.', 'a/..', 'block'])}/{w.file()}"))
archive("a folder's name", lambda w, made: put(w, made, f"{w.file()}/"))
archive("a look-alike name", lambda w, made: put(w, made, confusable(w)))
archive("a name of another case", lambda w, made: put(w, made, w.file().swapcase()))
archive(
    "a file twice",
    lambda w, made: made.insert(w.rng.randrange(len(made)), (zipfile.ZipInfo(w.file(), EPOCH), w.rng.randbytes(3))),
)
archive("a file less", lambda w, made: made.pop(w.rng.choice([i for i, name in enumerate(FILES) if name != SIGNATURE])))
archive(
    "thousands of files",
    lambda w, made: made.extend((zipfile.ZipInfo(f"{n}", EPOCH), b"") for n in range(w.rng.randint(50, 900))),
)
archive("another order", shuffled)
archive("a file spoilt", spoilt)
archive("a bomb", bomb, zipfile.ZIP_DEFLATED)
ARCHIVES["archive: a compression that blocks do not use"] = (
    lambda w, path: zipped(path, entries(w), w.rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])),
    (BlockCorrupt,),
)
archive("a symbolic link", attribute(stat.S_IFLNK))
archive("a folder by its mode", attribute(stat.S_IFDIR))
archive("a device", attribute(stat.S_IFBLK))
archive("a pipe", attribute(stat.S_IFIFO))
rewritten("a huge size declared", central(24, lambda w: w.rng.randrange(2**31, 2**32 - 2).to_bytes(4, "little")))
rewritten("a wrong checksum", central(16, lambda w: w.rng.randbytes(4)))
rewritten("a wrong compressed size", central(20, lambda w: w.rng.randrange(10**6, 2**31).to_bytes(4, "little")))
rewritten("an encrypted entry", central(8, lambda w: b"\x01"))
rewritten("an entry elsewhere", central(42, lambda w: w.rng.randrange(10**5, 2**31).to_bytes(4, "little")))
rewritten("another name in the local header", renamed_locally)
rewritten("something before it", lambda w, data: w.rng.randbytes(w.rng.randint(1, 99)) + data)
rewritten("something behind it", lambda w, data: data + w.rng.randbytes(w.rng.randint(1, 99)))
rewritten("cut short", lambda w, data: data[: w.rng.randrange(len(data))])
rewritten("two archives", lambda w, data: data * w.rng.randint(2, 4))
rewritten("a comment", lambda w, data: data[:-2] + (n := w.rng.randint(1, 60)).to_bytes(2, "little") + b"c" * n)
rewritten("a tar", tarred)
rewritten("gzip around it", lambda w, data: gzip.compress(data, compresslevel=w.rng.randint(1, 9)))
rewritten("no archive", lambda w, data: w.rng.randbytes(w.rng.randint(0, 999)))
