"""libslirp as its header has it, for cffi without a compiler: declarations of what trapgate uses.

Source: libslirp.h of libslirp 4.7, SlirpConfig version 1. Later versions only add fields behind it.
"""

from __future__ import annotations

import functools
from typing import Any

from cffi import FFI

from trapgate.devices.networks.errors import NetworkError

LIBRARY = "libslirp.so.0"
PACKAGE = "libslirp0"
CONFIG_VERSION = 1
# SLIRP_POLL_*.
READABLE, WRITABLE, PRIORITY, ERROR, HANG_UP = 1, 2, 4, 8, 16

DECLARATIONS = """
typedef struct Slirp Slirp;
struct in_addr { uint32_t s_addr; };
struct in6_addr { uint8_t s6_addr[16]; };
typedef void (*SlirpTimerCb)(void *opaque);
typedef int (*SlirpAddPollCb)(int fd, int events, void *opaque);
typedef int (*SlirpGetREventsCb)(int index, void *opaque);

typedef struct {
    ssize_t (*send_packet)(const void *buffer, size_t length, void *opaque);
    void (*guest_error)(const char *message, void *opaque);
    int64_t (*clock_get_ns)(void *opaque);
    void *(*timer_new)(SlirpTimerCb callback, void *callback_opaque, void *opaque);
    void (*timer_free)(void *timer, void *opaque);
    void (*timer_mod)(void *timer, int64_t expire_time, void *opaque);
    void (*register_poll_fd)(int fd, void *opaque);
    void (*unregister_poll_fd)(int fd, void *opaque);
    void (*notify)(void *opaque);
    void (*init_completed)(Slirp *slirp, void *opaque);
    void *(*timer_new_opaque)(int id, void *callback_opaque, void *opaque);
} SlirpCb;

typedef struct {
    uint32_t version;
    int restricted;
    bool in_enabled;
    struct in_addr vnetwork;
    struct in_addr vnetmask;
    struct in_addr vhost;
    bool in6_enabled;
    struct in6_addr vprefix_addr6;
    uint8_t vprefix_len;
    struct in6_addr vhost6;
    const char *vhostname;
    const char *tftp_server_name;
    const char *tftp_path;
    const char *bootfile;
    struct in_addr vdhcp_start;
    struct in_addr vnameserver;
    struct in6_addr vnameserver6;
    const char **vdnssearch;
    const char *vdomainname;
    size_t if_mtu;
    size_t if_mru;
    bool disable_host_loopback;
    bool enable_emu;
} SlirpConfig;

Slirp *slirp_new(const SlirpConfig *config, const SlirpCb *callbacks, void *opaque);
void slirp_cleanup(Slirp *slirp);
void slirp_pollfds_fill(Slirp *slirp, uint32_t *timeout, SlirpAddPollCb add_poll, void *opaque);
void slirp_pollfds_poll(Slirp *slirp, int select_error, SlirpGetREventsCb get_revents, void *opaque);
void slirp_input(Slirp *slirp, const uint8_t *packet, int length);
int slirp_add_hostfwd(Slirp *slirp, int is_udp, struct in_addr host_addr, int host_port,
                      struct in_addr guest_addr, int guest_port);
const char *slirp_version_string(void);
"""


class SlirpMissing(NetworkError):
    """This host has no libslirp."""

    def __init__(self) -> None:
        super().__init__(
            f"{LIBRARY} for a user network",
            "a host without it",
            f"install it (Debian package {PACKAGE}), or choose another network with -nic",
        )


@functools.cache
def ffi() -> FFI:
    """cffi with the declarations."""
    made = FFI()
    made.cdef(DECLARATIONS)
    return made


def load_slirp() -> Any:
    """The library. Raises SlirpMissing."""
    try:
        return ffi().dlopen(LIBRARY)
    except OSError as error:
        raise SlirpMissing from error
