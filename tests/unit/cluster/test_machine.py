"""What the kernel's files say."""

from pathlib import Path

from e2e.cluster.machine import (
    Mount,
    cgroup_hierarchies,
    choose_snapshotter,
    has_sys_resource,
    is_cgroup_v2,
    mounts_under,
    parse_mountinfo,
    parse_sockets,
)

MOUNTINFO = """\
23 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 23 0:25 / /sys/fs/cgroup/cpu rw shared:5 master:1 - cgroup cgroup rw,cpu
31 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
40 23 0:40 / /var/lib/lull/a\\040b rw - tmpfs tmpfs rw
41 40 0:41 / /var/lib/lull/a\\040b/c rw - overlay overlay rw
42 23 0:42 / /var/lib/lullaby rw - tmpfs tmpfs rw
"""


def test_reads_mounts_with_any_number_of_optional_fields_and_with_spaces() -> None:
    mounts = parse_mountinfo(MOUNTINFO)

    assert mounts[1] == Mount(Path("/sys/fs/cgroup/cpu"), "cgroup")
    assert mounts[3] == Mount(Path("/var/lib/lull/a b"), "tmpfs")


def test_unmounts_the_inner_before_the_outer_and_nothing_beside() -> None:
    under = mounts_under(parse_mountinfo(MOUNTINFO), Path("/var/lib/lull"))

    assert under == [Path("/var/lib/lull/a b/c"), Path("/var/lib/lull/a b")]


def test_stacks_no_overlay_on_an_overlay() -> None:
    mounts = parse_mountinfo(MOUNTINFO)

    assert choose_snapshotter(mounts, Path("/var/lib/lull/a b")) == "overlayfs"
    assert choose_snapshotter(mounts, Path("/var/lib/lull/a b/c/d")) == "native"


def test_tells_cgroup_versions_apart() -> None:
    hybrid = parse_mountinfo(MOUNTINFO)
    unified = [Mount(Path("/sys/fs/cgroup"), "cgroup2")]

    assert (is_cgroup_v2(hybrid), is_cgroup_v2(unified)) == (False, True)
    assert cgroup_hierarchies(hybrid) == [Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/unified")]


def test_reads_one_capability_out_of_all() -> None:
    assert has_sys_resource("CapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\n")
    assert not has_sys_resource("CapEff:\t000001fffeffffff\n")


def test_reads_what_listens_and_leaves_out_what_is_connected() -> None:
    table = """\
  sl  local_address rem_address   st tx_queue rx_queue
   0: 0100E70A:192B 00000000:0000 0A 00000000:00000000
   1: 00000000:0035 00000000:0000 07 00000000:00000000
   2: 0100007F:1F90 0100007F:D431 01 00000000:00000000
"""

    assert parse_sockets(table) == {("10.231.0.1", 6443), ("0.0.0.0", 53)}
