"""A folder of the host as a guest sees it, and no more than it.

A place in it is a tuple of names. Every access walks them from the folder's own descriptor on, one name after the
other, and follows no symbolic link on the way: the guest's kernel reads links and walks where they lead by itself. A
name is no "..", and has no slash. So nothing outside the folder can be reached, whatever the guest, or another program
on the host, puts into it meanwhile. Devices and sockets of the host are not opened.

Functions raise OSError.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: Bytes of all names of a place.
LONGEST_PLACE = 4096
PERMISSIONS = 0o777
#: What a guest may say when it opens a file.
OPEN_FLAGS = os.O_ACCMODE | os.O_TRUNC | os.O_EXCL | os.O_DIRECTORY
SAFELY = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
#: QEMU's names of mapped attributes, so that it shows the same folder in the same way.
MODE, USER, GROUP, DEVICE = "user.virtfs.mode", "user.virtfs.uid", "user.virtfs.gid", "user.virtfs.rdev"
MAPPED_FILE, MAPPED_FOLDER = 0o600, 0o700
LONGEST_LINK = 4096

Place = tuple[bytes, ...]
#: User and group of a new file, 32 bits each.
Owner = tuple[int, int]
#: A file's time; NOW, or None for what it is.
Time = int | None
NOW = -1


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat says, as the guest is to see it. `real` is the host's."""

    mode: int
    user: int
    group: int
    device: int
    real: os.stat_result


def checked(name: bytes) -> bytes:
    """A name that a guest gives for something in a folder."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, "a name")
    return name


class Folder:
    """`path` with everything in it. With `mapped`, owners and modes are kept beside the files, as extended attributes,
    and the files are the user's own; else modes are the host's, and owners as far as the host lets them be."""

    def __init__(self, path: Path, read_only: bool = False, mapped: bool = False) -> None:
        self.read_only, self.mapped = read_only, mapped
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        #: Devices of the host's that files are on, in the order in which they were seen.
        self._devices: list[int] = [os.fstat(self._root).st_dev]

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._root)

    # Walking

    @contextmanager
    def _parent(self, place: Place) -> Iterator[tuple[int, bytes]]:
        """A descriptor of the folder that has the last name of `place`, and that name."""
        if not place or sum(map(len, place)) > LONGEST_PLACE:
            raise OSError(errno.ENAMETOOLONG if place else errno.EBUSY, "a place")
        descriptor = os.dup(self._root)
        try:
            for name in place[:-1]:
                following = os.open(name, os.O_PATH | os.O_DIRECTORY | SAFELY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = following
            yield descriptor, place[-1]
        finally:
            os.close(descriptor)

    @contextmanager
    def pinned(self, place: Place, opened: int | None = None) -> Iterator[int]:
        """A descriptor for what is at `place`, be it a link; `opened` is one that the guest has opened already."""
        if opened is not None:
            yield opened
            return
        if not place:
            yield self._root
            return
        with self._parent(place) as (parent, name):
            descriptor = os.open(name, os.O_PATH | SAFELY, dir_fd=parent)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    # Looking

    def attributes(self, place: Place, opened: int | None = None) -> Attributes:
        """What there is."""
        with self.pinned(place, opened) as descriptor:
            return self._attributes(descriptor)

    def _attributes(self, descriptor: int) -> Attributes:
        real = os.fstat(descriptor)
        mode, user, group, device = real.st_mode, real.st_uid, real.st_gid, real.st_rdev
        if self.mapped and not stat.S_ISLNK(mode):
            mode = self._mapped(descriptor, MODE, "<I", mode)
            user = self._mapped(descriptor, USER, "<I", user)
            group = self._mapped(descriptor, GROUP, "<I", group)
            device = self._mapped(descriptor, DEVICE, "<Q", device)
        return Attributes(mode, user, group, device, real)

    @staticmethod
    def _mapped(descriptor: int, name: str, form: str, otherwise: int) -> int:
        try:
            data = os.getxattr(_path(descriptor), name)
        except OSError:
            return otherwise
        return int(struct.unpack(form, data)[0]) if len(data) == struct.calcsize(form) else otherwise

    def identity(self, real: os.stat_result) -> int:
        """A number for a file, different from those of all others."""
        if real.st_dev not in self._devices:
            self._devices.append(real.st_dev)
        return (self._devices.index(real.st_dev) << 48 ^ real.st_ino) & (1 << 64) - 1

    def names(self, opened: int) -> list[bytes]:
        """What is in an opened folder, in order: two runs see the same."""
        return sorted(os.fsencode(name) for name in os.listdir(opened))

    def read_link(self, place: Place) -> bytes:
        """Where a symbolic link leads."""
        with self.pinned(place) as descriptor:
            if stat.S_ISLNK(os.fstat(descriptor).st_mode):
                return os.readlink(b"", dir_fd=descriptor)
            if not stat.S_ISLNK(self._attributes(descriptor).mode):
                raise OSError(errno.EINVAL, "no link")
            file = os.open(_path(descriptor), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(file, LONGEST_LINK)
            finally:
                os.close(file)

    def statistics(self) -> os.statvfs_result:
        """Of the file system."""
        return os.statvfs(_path(self._root))

    # Opening

    def open(self, place: Place, flags: int) -> int:
        """A descriptor of a file or folder for reading or writing."""
        flags &= OPEN_FLAGS & ~os.O_EXCL
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self.must_write()
        with self.pinned(place) as descriptor:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISLNK(mode):
                raise OSError(errno.ELOOP, "a link")
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise OSError(errno.ENXIO, "a device or socket of the host")
            return os.open(_path(descriptor), flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)

    def create(self, place: Place, flags: int, mode: int, owner: Owner) -> int:
        """A descriptor of a new file, or of one that is there unless `flags` have O_EXCL."""
        self.must_write()
        flags = flags & OPEN_FLAGS & ~os.O_DIRECTORY | os.O_CREAT | SAFELY
        with self._parent(place) as (parent, name):
            try:
                descriptor = os.open(name, flags | os.O_EXCL, MAPPED_FILE, dir_fd=parent)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
                return self.open(place, flags)
        self._own(descriptor, stat.S_IFREG | mode & 0o7777, owner)
        return descriptor

    # Changing

    def must_write(self) -> None:
        """Raises OSError for a folder that is for reading."""
        if self.read_only:
            raise OSError(errno.EROFS, "read-only")

    def _own(self, descriptor: int, mode: int, owner: Owner, device: int = 0) -> None:
        """Whose a new file is, and what it is to be for the guest."""
        if not self.mapped:
            os.chmod(_path(descriptor), mode & PERMISSIONS)
            return
        path = _path(descriptor)
        for name, form, value in ((MODE, "<I", mode), (USER, "<I", owner[0]), (GROUP, "<I", owner[1])):
            os.setxattr(path, name, struct.pack(form, value))
        if device:
            os.setxattr(path, DEVICE, struct.pack("<Q", device))

    def make_folder(self, place: Place, mode: int, owner: Owner) -> None:
        """A new folder."""
        self.must_write()
        with self._parent(place) as (parent, name):
            os.mkdir(name, MAPPED_FOLDER, dir_fd=parent)
        with self.pinned(place) as descriptor:
            self._own(descriptor, stat.S_IFDIR | mode & 0o7777, owner)

    def make_node(self, place: Place, mode: int, device: int, owner: Owner) -> None:
        """A file that is no regular one. Devices only for the guest's eyes: as files with mapped attributes."""
        self.must_write()
        kind = stat.S_IFMT(mode)
        if not self.mapped:
            if kind not in (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
                raise OSError(errno.EPERM, "a device")
            with self._parent(place) as (parent, name):
                os.mknod(name, mode & PERMISSIONS | kind, dir_fd=parent)
            return
        with self._parent(place) as (parent, name):
            descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | SAFELY, MAPPED_FILE, dir_fd=parent)
        try:
            self._own(descriptor, mode, owner, device)
        finally:
            os.close(descriptor)

    def make_link(self, place: Place, target: bytes, owner: Owner) -> None:
        """A symbolic link; a mapped one is a file with its target."""
        self.must_write()
        if not self.mapped:
            with self._parent(place) as (parent, name):
                os.symlink(target, name, dir_fd=parent)
            return
        self.make_node(place, stat.S_IFLNK | PERMISSIONS, 0, owner)
        descriptor = self.open(place, os.O_WRONLY)
        try:
            os.write(descriptor, target[:LONGEST_LINK])
        finally:
            os.close(descriptor)

    def link(self, place: Place, new: Place) -> None:
        """A second name."""
        self.must_write()
        with self._parent(place) as (parent, name), self._parent(new) as (to, called):
            os.link(name, called, src_dir_fd=parent, dst_dir_fd=to, follow_symlinks=False)

    def rename(self, place: Place, new: Place) -> None:
        """Another name; what had it is gone."""
        self.must_write()
        with self._parent(place) as (parent, name), self._parent(new) as (to, called):
            os.rename(name, called, src_dir_fd=parent, dst_dir_fd=to)

    def remove(self, place: Place, is_folder: bool) -> None:
        """Take a name away."""
        self.must_write()
        with self._parent(place) as (parent, name):
            if is_folder:
                os.rmdir(name, dir_fd=parent)
            else:
                os.unlink(name, dir_fd=parent)

    def set_mode(self, place: Place, opened: int | None, mode: int) -> None:
        """Permissions."""
        self.must_write()
        with self.pinned(place, opened) as descriptor:
            if self.mapped:
                kind = stat.S_IFMT(self._attributes(descriptor).mode)
                os.setxattr(_path(descriptor), MODE, struct.pack("<I", kind | mode & 0o7777))
            else:
                os.chmod(_path(descriptor), mode & PERMISSIONS)

    def set_owner(self, place: Place, opened: int | None, user: int | None, group: int | None) -> None:
        """User and group. Without mapping nothing changes: files are of the user who runs this."""
        self.must_write()
        with self.pinned(place, opened) as descriptor:
            if not self.mapped:
                return
            for name, value in ((USER, user), (GROUP, group)):
                if value is not None:
                    os.setxattr(_path(descriptor), name, struct.pack("<I", value))

    def set_size(self, place: Place, opened: int | None, size: int) -> None:
        """Cut off, or fill with zeros."""
        self.must_write()
        with self.pinned(place, opened) as descriptor:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "no file")
            os.truncate(_path(descriptor), size)

    def set_times(self, place: Place, opened: int | None, access: Time, change: Time) -> None:
        """Nanoseconds since 1970; None leaves one, NOW is the host's present."""
        self.must_write()
        with self.pinned(place, opened) as descriptor:
            path, real = _path(descriptor), os.fstat(descriptor)
            if NOW in (access, change):
                os.utime(path)
                now = os.fstat(descriptor)
                access = now.st_atime_ns if access == NOW else access
                change = now.st_mtime_ns if change == NOW else change
            os.utime(
                path,
                ns=(real.st_atime_ns if access is None else access, real.st_mtime_ns if change is None else change),
            )


def _path(descriptor: int) -> str:
    """A name for what a descriptor stands for; the host follows it to that, and to nothing else."""
    return f"/proc/self/fd/{descriptor}"
