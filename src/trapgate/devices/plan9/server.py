"""The server: what a guest's requests do to a folder of the host.

A fid is the guest's number for a place in the folder, perhaps opened. Everything that a guest can make grow is bounded:
fids, opened files, the length of a message and of a place. Errors are Linux's numbers.

Sources: Plan 9 manual, section 5; "9P2000.L Protocol" (diod, protocol.md).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

from trapgate.devices.plan9 import messages as m
from trapgate.devices.plan9.folder import NOW, Attributes, Folder, Place, checked
from trapgate.machine.device import Snapshot

LARGEST_MESSAGE, SMALLEST_MESSAGE = 1 << 19, 4096
PROTOCOL = b"9P2000.L"
MOST_FIDS, MOST_OPEN = 1 << 16, 512
MOST_NAMES = 16
#: What READ's and READDIR's answers have around their data.
OVERHEAD = 11
FILE_SYSTEM = 0x0102_1997
BASIC_ATTRIBUTES = 0x7FF
# Tsetattr's bits.
SET_MODE, SET_USER, SET_GROUP, SET_SIZE, SET_ATIME, SET_MTIME = 1, 2, 4, 8, 0x10, 0x20
ATIME_GIVEN, MTIME_GIVEN = 0x80, 0x100
REMOVE_FOLDER = 0x200
LOCK_SUCCESS, UNLOCKED = 0, 2
LARGEST_OFFSET = (1 << 63) - 1
NANOSECONDS = 10**9


class _Fid:
    """A place, and what is opened there."""

    def __init__(self, place: Place, user: int) -> None:
        self.place, self.user = place, user
        self.flags = 0
        self.descriptor: int | None = None
        #: Opened, but it cannot be opened again after a restore.
        self.is_lost = False
        #: A folder's names, since reading it began.
        self.names: list[bytes] | None = None

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class Plan9Server:
    """Answers the requests of one guest."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._fids: dict[int, _Fid] = {}
        self.largest_message = LARGEST_MESSAGE
        #: What was asked, with Linux's errors that were answered, and what is against the protocol (metrics).
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._functions: dict[int, tuple[str, Callable[[m.Fields], bytes]]] = {
            m.VERSION: ("version", self._version), m.AUTH: ("auth", self._refuse), m.ATTACH: ("attach", self._attach),
            m.FLUSH: ("flush", lambda fields: b""), m.WALK: ("walk", self._walk), m.READ: ("read", self._read),
            m.WRITE: ("write", self._write), m.CLUNK: ("clunk", self._clunk), m.REMOVE: ("remove", self._remove),
            m.STATFS: ("statfs", self._statfs), m.LOPEN: ("open", self._open), m.LCREATE: ("create", self._create),
            m.SYMLINK: ("symlink", self._symlink), m.MKNOD: ("mknod", self._mknod), m.RENAME: ("rename", self._rename),
            m.READLINK: ("readlink", self._readlink), m.GETATTR: ("getattr", self._getattr),
            m.SETATTR: ("setattr", self._setattr), m.XATTRWALK: ("xattrwalk", self._refuse),
            m.XATTRCREATE: ("xattrcreate", self._refuse), m.READDIR: ("readdir", self._readdir),
            m.FSYNC: ("fsync", self._fsync), m.LOCK: ("lock", self._lock), m.GETLOCK: ("getlock", self._getlock),
            m.LINK: ("link", self._link), m.MKDIR: ("mkdir", self._mkdir), m.RENAMEAT: ("renameat", self._renameat),
            m.UNLINKAT: ("unlinkat", self._unlinkat),
        }  # fmt: skip

    def answer(self, request: bytes) -> bytes:
        """The answer to a whole request, which is at least a header long."""
        size, kind, tag = m.HEADER.unpack_from(request)
        name, function = self._functions.get(kind, ("unknown request", self._refuse))
        self.counts[name] += 1
        try:
            if not m.HEADER.size <= size <= len(request):
                raise m.Malformed
            return m.message(kind + 1, tag, function(m.Fields(request[m.HEADER.size : size])))
        except m.Malformed:
            self.faults["malformed message"] += 1
            return m.error(tag, errno.EINVAL)
        except OSError as error:
            self.counts[f"{name} {errno.errorcode.get(error.errno or errno.EIO, 'error')}"] += 1
            return m.error(tag, error.errno or errno.EIO)

    def reset(self) -> None:
        """Forget every fid."""
        for fid in self._fids.values():
            fid.close()
        self._fids.clear()

    # Fids

    def _fid(self, fields: m.Fields) -> _Fid:
        fid = self._fids.get(fields.u32())
        if fid is None:
            raise OSError(errno.EBADF, "a fid")
        return fid

    def _opened(self, fields: m.Fields) -> tuple[_Fid, int]:
        fid = self._fid(fields)
        if fid.is_lost:
            raise OSError(errno.ESTALE, "gone while the machine was saved")
        if fid.descriptor is None:
            raise OSError(errno.EBADF, "not open")
        return fid, fid.descriptor

    def _new(self, number: int, fid: _Fid) -> None:
        if number in self._fids:
            raise OSError(errno.EBADF, "a fid in use")
        if len(self._fids) >= MOST_FIDS:
            raise OSError(errno.ENFILE, "fids")
        self._fids[number] = fid

    def _room_to_open(self, fid: _Fid) -> None:
        if fid.descriptor is not None:
            raise OSError(errno.EBADF, "open already")
        if sum(one.descriptor is not None for one in self._fids.values()) >= MOST_OPEN:
            raise OSError(errno.EMFILE, "files")

    def _qid(self, attributes: Attributes) -> bytes:
        mode = attributes.mode
        kind = m.DIRECTORY_QID if stat.S_ISDIR(mode) else m.SYMLINK_QID if stat.S_ISLNK(mode) else m.FILE_QID
        # The version changes with the content, as far as the host's clock tells.
        version = (attributes.real.st_mtime_ns ^ attributes.real.st_size << 8) & 0xFFFF_FFFF
        return m.QID.pack(kind, version, self._folder.identity(attributes.real))

    def _qid_at(self, place: Place) -> bytes:
        return self._qid(self._folder.attributes(place))

    # Sessions

    def _refuse(self, fields: m.Fields) -> bytes:
        raise OSError(errno.EOPNOTSUPP, "not here")

    def _version(self, fields: m.Fields) -> bytes:
        size, version = fields.u32(), fields.string()
        if size < SMALLEST_MESSAGE:
            raise OSError(errno.EMSGSIZE, "a message size")
        self.reset()
        self.largest_message = min(size, LARGEST_MESSAGE)
        known = PROTOCOL if version == PROTOCOL else b"unknown"
        return self.largest_message.to_bytes(4, "little") + m.string(known)

    def _attach(self, fields: m.Fields) -> bytes:
        number, _ = fields.u32(), fields.u32()
        fields.string()
        fields.string()
        qid = self._qid_at(())
        self._new(number, _Fid((), fields.u32()))
        return qid

    def _walk(self, fields: m.Fields) -> bytes:
        source, number, count = self._fid(fields), fields.u32(), fields.u16()
        if count > MOST_NAMES:
            raise OSError(errno.EINVAL, "names")
        if source.descriptor is not None and count:
            raise OSError(errno.EBADF, "an opened fid")
        place, qids = source.place, []
        for index in range(count):
            name = fields.string()
            # Upwards it goes to the folder's own top, and no further.
            following = place[:-1] if name == b".." else (*place, checked(name))
            try:
                qids.append(self._qid_at(following))
            except OSError:
                if not index:
                    raise
                break
            place = following
        if len(qids) == count:
            fid = _Fid(place, source.user)
            if self._fids.get(number) is source:
                self._fids[number].close()
                del self._fids[number]
            self._new(number, fid)
        return len(qids).to_bytes(2, "little") + b"".join(qids)

    def _clunk(self, fields: m.Fields) -> bytes:
        number = fields.u32()
        fid = self._fids.pop(number, None)
        if fid is None:
            raise OSError(errno.EBADF, "a fid")
        fid.close()
        return b""

    # Opened files

    def _open(self, fields: m.Fields) -> bytes:
        fid, flags = self._fid(fields), fields.u32()
        self._room_to_open(fid)
        fid.descriptor = self._folder.open(fid.place, flags)
        fid.flags = flags & os.O_ACCMODE
        return self._qid(self._folder.attributes(fid.place, fid.descriptor)) + bytes(4)

    def _create(self, fields: m.Fields) -> bytes:
        fid, name, flags, mode, group = self._fid(fields), fields.string(), fields.u32(), fields.u32(), fields.u32()
        self._room_to_open(fid)
        place = (*fid.place, checked(name))
        fid.descriptor = self._folder.create(place, flags, mode, (fid.user, group))
        fid.place, fid.flags = place, flags & os.O_ACCMODE
        return self._qid(self._folder.attributes(place, fid.descriptor)) + bytes(4)

    def _range(self, fields: m.Fields) -> tuple[int, int]:
        offset, count = fields.u64(), fields.u32()
        if offset + count > LARGEST_OFFSET:
            raise OSError(errno.EINVAL, "an offset")
        return offset, min(count, self.largest_message - OVERHEAD)

    def _read(self, fields: m.Fields) -> bytes:
        _, descriptor = self._opened(fields)
        offset, count = self._range(fields)
        data = os.pread(descriptor, count, offset)
        self.counts["bytes_read"] += len(data)
        return len(data).to_bytes(4, "little") + data

    def _write(self, fields: m.Fields) -> bytes:
        _, descriptor = self._opened(fields)
        offset, count = self._range(fields)
        written = os.pwrite(descriptor, fields.take(count), offset)
        self.counts["bytes_written"] += written
        return written.to_bytes(4, "little")

    def _fsync(self, fields: m.Fields) -> bytes:
        _, descriptor = self._opened(fields)
        os.fsync(descriptor)
        return b""

    def _readdir(self, fields: m.Fields) -> bytes:
        fid, descriptor = self._opened(fields)
        offset, count = self._range(fields)
        if fid.names is None or not offset:
            fid.names = [b".", b"..", *self._folder.names(descriptor)]
        data = bytearray()
        for index in range(offset, len(fid.names)):
            name = fid.names[index]
            place = fid.place if name == b"." else fid.place[:-1] if name == b".." else (*fid.place, name)
            try:
                attributes = self._folder.attributes(place)
            except OSError:
                continue  # gone meanwhile
            entry = self._qid(attributes) + struct.pack("<QB", index + 1, stat.S_IFMT(attributes.mode) >> 12)
            entry += m.string(name)
            if len(data) + len(entry) > count:
                break
            data += entry
        return len(data).to_bytes(4, "little") + data

    def _lock(self, fields: m.Fields) -> bytes:
        self._opened(fields)
        return bytes((LOCK_SUCCESS,))  # the guest's kernel keeps its own locks, and nobody else has any

    def _getlock(self, fields: m.Fields) -> bytes:
        self._opened(fields)
        fields.u8()
        return bytes((UNLOCKED,)) + fields.take(20) + m.string(fields.string())

    # Attributes

    def _statfs(self, fields: m.Fields) -> bytes:
        self._fid(fields)
        found = self._folder.statistics()
        return struct.pack(
            "<IIQQQQQQI", FILE_SYSTEM, found.f_bsize, found.f_blocks, found.f_bfree, found.f_bavail, found.f_files,
            found.f_ffree, 0, found.f_namemax,
        )  # fmt: skip

    def _getattr(self, fields: m.Fields) -> bytes:
        fid = self._fid(fields)
        found = self._folder.attributes(fid.place, fid.descriptor)
        real = found.real
        times = [
            part for ns in (real.st_atime_ns, real.st_mtime_ns, real.st_ctime_ns) for part in divmod(ns, NANOSECONDS)
        ]
        return struct.pack("<Q", BASIC_ATTRIBUTES) + self._qid(found) + struct.pack(
            "<IIIQQQQQ6q4Q", found.mode, found.user, found.group, real.st_nlink, found.device, real.st_size,
            real.st_blksize, real.st_blocks, *times, 0, 0, 0, 0,
        )  # fmt: skip

    def _setattr(self, fields: m.Fields) -> bytes:
        fid = self._fid(fields)
        valid, mode, user, group, size = fields.u32(), fields.u32(), fields.u32(), fields.u32(), fields.u64()
        access, change = (fields.u64() * NANOSECONDS + fields.u64() for _ in range(2))
        folder, place, opened = self._folder, fid.place, fid.descriptor
        folder.must_write()
        if valid & SET_MODE:
            folder.set_mode(place, opened, mode)
        if valid & (SET_USER | SET_GROUP):
            folder.set_owner(place, opened, user if valid & SET_USER else None, group if valid & SET_GROUP else None)
        if valid & SET_SIZE:
            if size > LARGEST_OFFSET:
                raise OSError(errno.EFBIG, "a size")
            folder.set_size(place, opened, size)
        # A time that is not given is the present; its clock is the host's, as that of all times here.
        if valid & (SET_ATIME | SET_MTIME):
            if max(access, change) > LARGEST_OFFSET:
                raise OSError(errno.EINVAL, "a time")
            given = (access if valid & ATIME_GIVEN else NOW, change if valid & MTIME_GIVEN else NOW)
            folder.set_times(
                place, opened, given[0] if valid & SET_ATIME else None, given[1] if valid & SET_MTIME else None
            )
        return b""

    def _readlink(self, fields: m.Fields) -> bytes:
        return m.string(self._folder.read_link(self._fid(fields).place))

    # Names

    def _child(self, fields: m.Fields) -> tuple[_Fid, Place]:
        fid = self._fid(fields)
        return fid, (*fid.place, checked(fields.string()))

    def _mkdir(self, fields: m.Fields) -> bytes:
        fid, place = self._child(fields)
        mode, group = fields.u32(), fields.u32()
        self._folder.make_folder(place, mode, (fid.user, group))
        return self._qid_at(place)

    def _symlink(self, fields: m.Fields) -> bytes:
        fid, place = self._child(fields)
        target, group = fields.string(), fields.u32()
        if not target or b"\0" in target:
            raise OSError(errno.EINVAL, "a target")
        self._folder.make_link(place, target, (fid.user, group))
        return self._qid_at(place)

    def _mknod(self, fields: m.Fields) -> bytes:
        fid, place = self._child(fields)
        mode, major, minor, group = fields.u32(), fields.u32(), fields.u32(), fields.u32()
        self._folder.make_node(place, mode, os.makedev(major & 0xFFF, minor & 0xFFFFF), (fid.user, group))
        return self._qid_at(place)

    def _link(self, fields: m.Fields) -> bytes:
        parent, fid = self._fid(fields), self._fid(fields)
        self._folder.link(fid.place, (*parent.place, checked(fields.string())))
        return b""

    def _rename(self, fields: m.Fields) -> bytes:
        fid, (_, new) = self._fid(fields), self._child(fields)
        return self._move(fid.place, new)

    def _renameat(self, fields: m.Fields) -> bytes:
        (_, old), (_, new) = self._child(fields), self._child(fields)
        return self._move(old, new)

    def _move(self, old: Place, new: Place) -> bytes:
        """Rename; fids follow what they stand for."""
        self._folder.rename(old, new)
        for fid in self._fids.values():
            if fid.place[: len(old)] == old:
                fid.place = new + fid.place[len(old) :]
        return b""

    def _unlinkat(self, fields: m.Fields) -> bytes:
        _, place = self._child(fields)
        self._folder.remove(place, bool(fields.u32() & REMOVE_FOLDER))
        return b""

    def _remove(self, fields: m.Fields) -> bytes:
        number = fields.u32()
        fid = self._fids.pop(number, None)
        if fid is None:
            raise OSError(errno.EBADF, "a fid")
        fid.close()  # it is gone whether this succeeds or not
        is_folder = stat.S_ISDIR(self._folder.attributes(fid.place).real.st_mode)
        self._folder.remove(fid.place, is_folder)
        return b""

    # Snapshot

    def snapshot(self) -> Snapshot:
        """The fids; what is in the folder is outside."""
        fids = [
            [number, list(fid.place), fid.user, fid.descriptor is not None or fid.is_lost, fid.flags, fid.names]
            for number, fid in self._fids.items()
        ]
        return {"largest_message": self.largest_message, "fids": fids}

    def restore(self, snapshot: Snapshot) -> None:
        """The same fids; what was open is opened again, and is lost where that cannot be."""
        self.reset()
        self.largest_message = snapshot["largest_message"]
        entry: list[Any]
        for entry in snapshot["fids"]:
            number, place, user, is_open, flags, names = entry
            # A file with a saved machine may come from anybody: its places are held to what a guest's are.
            fid = self._fids[number] = _Fid(tuple(map(checked, place)), user)
            fid.flags, fid.names = flags, None if names is None else list(names)
            if is_open:
                try:
                    fid.descriptor = self._folder.open(fid.place, flags & os.O_ACCMODE)
                except OSError:
                    fid.is_lost = True
